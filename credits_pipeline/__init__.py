"""Watch prepaid LLM credits: what was spent each day, on what, and when they run out."""
