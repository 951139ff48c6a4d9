"""Choose the sizes of a cut by the measured cost of each axis, under a budget."""
