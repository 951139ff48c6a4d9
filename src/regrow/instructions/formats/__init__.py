"""The formats that instruction data are published in, and how each is recognised."""
