"""Weights of the aligners of `keras_struct.protein`: data, with checksums in `models.json`."""
