"""What happened in a run, as a page and as a table."""
