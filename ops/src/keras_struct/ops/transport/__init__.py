"""Entropic optimal transport between two sequences, in tiles: no array of size L1 x L2 exists."""
