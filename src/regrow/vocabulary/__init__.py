"""Choose the tokens that a model keeps, by how often a corpus uses each token."""
