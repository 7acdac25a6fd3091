"""What people are told: which alerts are due, and sending them."""
