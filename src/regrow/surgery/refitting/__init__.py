"""Solve for matrices and train layers again after a cut, so that it changes less."""
