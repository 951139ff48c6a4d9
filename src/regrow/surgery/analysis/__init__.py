"""What each part of a model is worth, measured before anything is cut."""
