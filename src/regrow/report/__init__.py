"""The report of a run, as an HTML page and as a table in the terminal."""
