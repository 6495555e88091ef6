"""Weights of the parsers of `keras_struct.treebank`: data, with checksums in `models.json`."""
