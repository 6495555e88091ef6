"""Structured attention layers, prediction heads, losses and metrics."""

from keras_struct.layers.check_layer import AttachMask, check_layer
from keras_struct.layers.export import export_saved_model
from keras_struct.layers.sequence_mask import lengths_from_mask, mask_from_lengths

__all__ = [
    "AttachMask",
    "check_layer",
    "export_saved_model",
    "lengths_from_mask",
    "mask_from_lengths",
]
