"""How our Dagster is run, and what is known of a run."""
