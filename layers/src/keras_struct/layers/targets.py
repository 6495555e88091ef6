"""What losses and metrics take beside predictions, decided in one place: targets and weights.

Shapes are compared while a graph is traced, as far as they are known, before anything is computed.
Numbers are compared where they can be read (see `keras_struct.ops.validation`): a target that does
not exist is a `ValueError` there. Under a compiler, on every backend, it is an impossible one: its
loss is infinite and has no gradient, and a metric counts it as not found.
"""

from __future__ import annotations

import keras
from keras import ops as K
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

from keras_struct.layers.annotations import Config
from keras_struct.ops.annotations import Tensor
from keras_struct.ops.validation import readable

NO_INTEGER = 2**30  # beyond every number of a tag, a word or a node


def check_shape(name, x, expected, *sizes):
    """Raise a `ValueError` unless a tensor has this shape, as far as it is known.

    Args:
        name: Of the argument.
        x: Tensor.
        expected: What was expected, in words.
        *sizes: Of the axes; what is no integer is not known.
    """
    if not fits(x.shape, sizes):
        raise ValueError(f"Expected {expected}. Received: shape of {name}={tuple(x.shape)}")


def fits(shape, sizes):
    """Whether a shape may be these sizes, where each is an integer or unknown."""
    return len(shape) == len(sizes) and all(
        not isinstance(have, int) or not isinstance(want, int) or have == want
        for have, want in zip(shape, sizes, strict=True)
    )


def known_now(*tensors):
    """Whether values can be read: no graph is traced, and Keras does not invent them."""
    return not in_symbolic_scope() and all(readable(x) for x in tensors)


def integers(x):
    """Numbers as int32, `NO_INTEGER` for those that are none, such as 0.5 and NaN.

    What a framework would make of these differs by backend, and most of it is some tag.
    """
    x = K.convert_to_tensor(x)
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
        return K.cast(x, "int32")
    whole = K.logical_and(K.equal(K.floor(x), x), K.abs(x) < NO_INTEGER)
    return K.where(whole, K.cast(K.where(whole, x, K.zeros_like(x)), "int32"), NO_INTEGER)


def check_numbers(name, what, x, valid, low, high, others=""):
    """Raise a `ValueError` if an integer where `valid` is True is below `low` or not below `high`.

    Only where values can be read, and the bounds are known. The message names `others`, which are
    expected, too.
    """
    if isinstance(high, int):
        expected = f"{what} from {low} to {high - 1}{others}"
        check_where(name, expected, x, valid, lambda x: (x >= low) & (x < high))


def check_where(name, expected, x, valid, right):
    """Raise a `ValueError` if a number where `valid` is True is wrong, and values can be read.

    Args:
        name: Of the argument.
        expected: What was expected, in words.
        x: Tensor.
        valid: Booleans in its shape.
        right: Function of an array, to booleans: which numbers are right.
    """
    if not known_now(x, valid):
        return
    x, valid = (K.convert_to_numpy(y) for y in (x, valid))
    wrong = valid & ~right(x)
    if wrong.any():
        place = tuple(int(axis[0]) for axis in wrong.nonzero())
        found = "no integer" if x[place] == NO_INTEGER else x[place]
        raise ValueError(f"Expected {expected}. Received: {name}={found} at {place}")


def check_names(labels, k):
    """Raise a `ValueError` unless there is a name for each of the `k` labels with scores."""
    if len(labels) != k:
        raise ValueError(
            f"Expected names of the {k} labels that y_pred has scores of. "
            f"Received: {len(labels)} labels={labels}"
        )


def not_below_0(x):
    """Numbers of which rounding has made some negative; these are 0, with their gradients."""
    return x - K.stop_gradient(K.minimum(x, 0.0))


def example_weights(sample_weight, batch, dtype, owner):
    """Weights of examples, () or `(B,)`, from (), `(B,)` or `(B, 1)`, or a `ValueError`.

    Args:
        sample_weight: As Keras hands it on.
        batch: B, if known.
        dtype: Of the weights.
        owner: Who weights examples only, for the message.
    """
    weight = K.convert_to_tensor(sample_weight, dtype=dtype)
    if not of_examples(weight, batch):
        raise ValueError(
            f"Expected weights of the examples (B,) = ({batch},): {owner} has no weights of "
            f"tokens. Received: shape of sample_weight={tuple(weight.shape)}"
        )
    return K.squeeze(weight, -1) if len(weight.shape) == 2 else weight


def of_examples(weight, batch):
    """Whether weights are those of examples: (), `(B,)` or `(B, 1)`."""
    shape = weight.shape
    return not shape or fits(shape, (batch,)) or (fits(shape, (batch, 1)) and shape[-1] == 1)


def token_weights(sample_weight, like, dtype):
    """Weights `(B, N)` of tokens, from those of examples, (), `(B,)` or `(B, 1)`, or of tokens.

    Args:
        sample_weight: As Keras hands it on; None for ones.
        like: Tensor `(B, N)`.
        dtype: Of the weights.
    """
    if sample_weight is None:
        return K.ones_like(like, dtype=dtype)
    weight, (batch, n) = K.convert_to_tensor(sample_weight, dtype=dtype), like.shape
    if len(weight.shape) == 1 and of_examples(weight, batch):
        weight = K.expand_dims(weight, -1)
    elif not of_examples(weight, batch) and not fits(weight.shape, (batch, n)):
        raise ValueError(
            f"Expected weights of the examples (B,) or of the tokens (B, N) = ({batch}, {n}). "
            f"Received: shape of sample_weight={tuple(weight.shape)}"
        )
    return K.broadcast_to(weight, K.shape(like))


class StructuredLoss(keras.losses.Loss):
    """Base class of losses that give one number for an example, however many tokens it has.

    A subclass implements `losses`, which returns `(B,)`. One whose attribute `weighs_tokens` is
    True is called with `y_true=(y_true, weights)` where Keras was given weights `(B, N)`, and
    applies them; the others refuse those, which would be multiplied by the losses of the examples.
    """

    weighs_tokens = False

    def __init__(self, reduction, name, dtype, zero_infinity=False):
        super().__init__(
            name=name, reduction=reduction, dtype="float32" if dtype is None else dtype
        )
        self.zero_infinity = bool(zero_infinity)

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        y_true = K.convert_to_tensor(y_true, dtype=self.dtype)
        if sample_weight is None:
            return super().__call__(y_true, y_pred)
        weight = K.convert_to_tensor(sample_weight, dtype=self.dtype)
        batch = keras.tree.flatten(y_pred)[0].shape[0]
        if not self.weighs_tokens or of_examples(weight, batch):
            weight = example_weights(weight, batch, self.dtype, type(self).__name__)
            return super().__call__(y_true, y_pred, weight)
        if self.reduction == "mean_with_sample_weight":
            raise ValueError(
                "Expected another reduction with weights of tokens: the loss is a sum over them. "
                f"Received: reduction={self.reduction!r}, "
                f"shape of sample_weight={tuple(weight.shape)}"
            )
        return super().__call__((y_true, weight), y_pred)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        losses = self.losses(y_true, y_pred)
        if not self.zero_infinity:
            return losses
        return K.where(K.equal(losses, float("inf")), K.zeros_like(losses), losses)

    def losses(self, y_true, y_pred):
        """The losses `(B,)`, infinite and without a gradient for what is impossible."""
        raise NotImplementedError

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "dtype": self.dtype,
            "zero_infinity": self.zero_infinity,
        }
