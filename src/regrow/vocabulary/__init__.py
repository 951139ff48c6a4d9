"""What a corpus needs of a vocabulary: token counts, and a plan of what to keep."""
