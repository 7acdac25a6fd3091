"""Tests: most run over an honest local API server and a real DuckDB file."""
