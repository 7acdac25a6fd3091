"""What people look at: the page, the charts, the answer in a terminal."""
