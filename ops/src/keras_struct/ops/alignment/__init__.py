"""Structures on the lattice of two sequences: alignments, warpings, edits."""
