"""A mask that is known, as the Keras mask of a tensor."""

import keras


@keras.saving.register_keras_serializable("keras_struct")
class AttachMask(keras.layers.Layer):
    """Attaches a mask to a tensor: `AttachMask()([x, mask])` is `x` with `mask` as Keras mask.

    `keras.layers.Masking` computes a mask from the values; this layer takes one that is known.

    Example:

    >>> import keras
    >>> from keras_struct import layers
    >>> x, mask = keras.Input((None, 3)), keras.Input((None,), dtype="bool")
    >>> model = keras.Model([x, mask], layers.CRF(2)(layers.AttachMask()([x, mask])))
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        return keras.ops.copy(inputs[0])

    def compute_mask(self, inputs, previous_mask=None):
        return inputs[1]

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)
