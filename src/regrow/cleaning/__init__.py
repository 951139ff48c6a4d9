"""From raw text to clean, unique documents."""
