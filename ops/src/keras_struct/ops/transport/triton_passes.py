"""Passes of the kernels of `triton_tiles.py` over a plan, and their derivatives, passes again.

A side is 0 for the rows and 1 for the columns. A pass has results for `ours`, the places of one
side, and sums over `theirs`, those of the other. Each is an operator, so compilers take it whole:

    log_sums    log sum_j exp(x_i . y_j + g_j)
    products    sum_j P_ij prod_k (left^k_i . right^k_j) values_j, P_ij = exp(x_i . y_j + f_i + g_j)

The derivative of a log-sum is a product, that of a product are products with a factor more, so
there are derivatives of any order.
"""

import torch
from torch.nn import functional

from keras_struct.ops.gpu import power
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.transport import tiles
from keras_struct.ops.transport.gpu_plan import LEAST_DEPTH, MOST_VALUES, divided, padded_depth
from keras_struct.ops.transport.tiles import Support
from keras_struct.ops.transport.triton_gpu import PARTS, Plan

ALL = Support(None)
WHOLE_DEPTH = 128  # up to which features are padded to a power of two, above to whole such pieces

# Parts of features --------------------------------------------------------------------------------


def laid_out(sums, raw):
    """Of both sides the parts (B, L, width) that kernels multiply, see `triton_gpu.FEATURES`.

    Features that were bfloat16, but for the rows, which were divided by epsilon, are one part or
    two. Float32 has a part of 11 bits, and both that part and the rest in float16, of which the
    products with each other's are as exact as 22 bits are; a factor, the larger the smaller the
    features of the other side, keeps them within range.
    """
    numbers = numbers_of(sums, raw[0])
    with torch.no_grad():
        wide = [_padded(x) for x in raw]
        if numbers == "bfloat16":
            return _bfloat16_parts(wide[0], 2), _bfloat16_parts(wide[1], 1)
        if numbers == "float64":
            return [wide[0]], [wide[1]]
        largest = [x.abs().amax((1, 2), keepdim=True).clamp(min=1e-30) for x in wide]
        factor = torch.exp2(torch.round(0.5 * torch.log2(largest[1] / largest[0])))
        return tuple(_float32_parts(x, s) for x, s in zip(wide, (factor, 1 / factor), strict=True))


def numbers_of(sums, x):
    return "float64" if x.dtype == torch.float64 else sums.numbers


def _padded(x):
    size = x.shape[2]
    return functional.pad(x, (0, padded_depth(size, WHOLE_DEPTH) - size)).contiguous()


def _bfloat16_parts(x, count):
    """`count` arrays of 8 bits each whose sum is x."""
    found = []
    for _ in range(count):
        found.append(x.to(torch.bfloat16))
        x = x - found[-1].to(x.dtype)
    return found


def _float32_parts(x, factor):
    """x in 11 bits, and `factor` times that and what is left."""
    high = ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    most = torch.finfo(torch.float16).max
    both = [(part * factor).clamp(-most, most) for part in (high, x - high)]
    return [high, *(part.to(torch.float16) for part in both)]


# The operators ------------------------------------------------------------------------------------

_keys: dict = {}
_all: dict = {}


def _key(sums):
    """A name of an implementation, which operators take."""
    if sums not in _keys:
        _keys[sums] = f"{len(_keys)}"
        _all[_keys[sums]] = sums
    return _keys[sums]


@torch.library.custom_op(
    "keras_struct::transport_log_sums",
    mutates_args=(),
    schema="(str key, Tensor x, Tensor y, Tensor[] laid_x, Tensor[] laid_y, Tensor g, "
    "Tensor? near, Tensor ours, Tensor theirs) -> Tensor",
)
def _log_sums_operator(key, x, y, laid_x, laid_y, g, near, ours, theirs):
    """(B, L1), FORBIDDEN without any pair."""
    call = _Call(key, x, y, laid_x, laid_y, ours, theirs)
    expected = g if near is None else near.contiguous()
    found = call.run("log_sums", (g, expected), (), NEAR=near is not None)
    return found[:, 0] if found.shape[1] == 1 else torch.logsumexp(found, 1)


@torch.library.custom_op(
    "keras_struct::transport_products",
    mutates_args=(),
    schema="(str key, Tensor x, Tensor y, Tensor[] laid_x, Tensor[] laid_y, Tensor f, Tensor g, "
    "Tensor values, Tensor[] left, Tensor[] right, Tensor ours, Tensor theirs) -> Tensor",
)
def _products_operator(key, x, y, laid_x, laid_y, f, g, values, left, right, ours, theirs):
    """(B, L1, V)."""
    call = _Call(key, x, y, laid_x, laid_y, ours, theirs, left, right)
    size = values.shape[2]
    if size == 1 and not left:
        return call.run("weighted_sums", (f, g, values[:, :, 0]), ()).sum(1)[:, :, None]
    pieces = [call.products(f, g, x) for x in values.split(MOST_VALUES, 2)]
    return pieces[0].contiguous() if len(pieces) == 1 else torch.cat(pieces, 2)


class _Call:
    """A pass over one plan.

    Args:
        key: Of the implementation.
        x, y: Features of ours and of theirs.
        laid_x, laid_y: The same, as kernels take them.
        ours, theirs: Lengths.
        left, right: Factors of the plan.
    """

    def __init__(self, key, x, y, laid_x, laid_y, ours, theirs, left=(), right=()):
        self.sums = _all[key]
        self.kernels, support = self.sums.kernels, self.sums.support
        self.numbers = numbers_of(self.sums, x)
        self.band = support.band_width
        self.first = int(support.spokes and self.band is not None)
        self.sizes, self.batch = (x.shape[1], y.shape[1]), x.shape[0]
        self.new, self.width = x.new_empty, laid_x[0].shape[2]
        self.laid = tuple(laid_x), tuple(laid_y)
        self.lengths = [
            n.clamp(0, size).to(torch.int32).contiguous()
            for n, size in zip((ours, theirs), self.sizes, strict=True)
        ]
        self.factors = left, right

    def products(self, f, g, values):
        size = values.shape[2]
        width = max(LEAST_DEPTH, power(size))
        of_factors, of_values = PARTS[self.numbers]
        values = self.parts(functional.pad(values, (0, width - size)), of_values)
        left, right = ([self.parts(_padded(x), of_factors) for x in side] for side in self.factors)
        widths = tuple(x[0].shape[2] for x in left)
        inputs = f, g, tuple(left), tuple(right), values
        found = self.run("products", inputs, (width,), values=width, factors=widths)
        return found.sum(1)[..., :size]

    def parts(self, x, count):
        if self.numbers == "float64":
            return (x.contiguous(),)
        return tuple(_bfloat16_parts(x.contiguous(), count))

    def run(self, name, inputs, shape, values=0, factors=(), **constants):
        """A kernel, to (B, splits, L1, ...)."""
        tile = self.kernels.tile_of(self.numbers, self.width, values, len(factors))
        blocks, tiles = -(-self.sizes[0] // tile.rows), -(-self.sizes[1] // tile.columns)
        splits = 1
        if self.band is None:
            splits = divided(tiles, self.batch * blocks, self.kernels.least)
        each = -(-tiles // splits)
        out = self.new((self.batch, splits, self.sizes[0], *shape))
        if 0 in (self.batch, *self.sizes):
            return out.fill_(FORBIDDEN if name == "log_sums" else 0.0)
        self.kernels.launch(
            "transport.triton_tiles",
            name,
            (self.batch * blocks, splits),
            *self.laid,
            *(x if isinstance(x, tuple) else x.contiguous() for x in inputs),
            *self.lengths,
            out,
            *self.sizes,
            each,
            self.band or 0,
            **constants,
            PLAN=Plan.of(
                self.numbers,
                tile,
                self.width,
                tuple(map(len, self.laid)),
                banded=self.band is not None,
                first=self.first,
                values=values,
                factors=factors,
                approximate=not (self.numbers == "float64" or self.kernels.interpreter),
            ),
            warps=tile.warps,
            stages=tile.stages,
        )
        return out


@_log_sums_operator.register_fake
def _(key, x, y, laid_x, laid_y, g, near, ours, theirs):
    return x.new_empty(x.shape[:2])


@_products_operator.register_fake
def _(key, x, y, laid_x, laid_y, f, g, values, left, right, ours, theirs):
    return x.new_empty((*x.shape[:2], values.shape[2]))


# Their derivatives --------------------------------------------------------------------------------


class _Pass(torch.autograd.Function):
    """An operator, of which `torch.func` knows the derivative and what to do with a mapped axis.

    Inputs are the key, the numbers of tensors of each list, then the tensors, the lists last.
    """

    @classmethod
    def vmap(cls, info, in_dims, key, counts, *tensors):
        size = info.batch_size

        def fold(x, dim):
            if x is None:
                return None
            x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
            return x.flatten(0, 1)

        found = cls.apply(key, counts, *map(fold, tensors, in_dims[2:]))
        return found.unflatten(0, (size, found.shape[0] // size)), 0

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.key, ctx.counts, *tensors = inputs
        ctx.save_for_backward(*tensors, output)


def _lists(tensors, counts):
    """The lists at the end of the tensors, and what is before them."""
    found: list = []
    end = len(tensors)
    for count in reversed(counts):
        found.insert(0, list(tensors[end - count : end]))
        end -= count
    return tensors[:end], found


class _LogSums(_Pass):
    @staticmethod
    def forward(key, counts, *tensors):
        (x, y, g, near, ours, theirs), laid = _lists(tensors, counts)
        return _log_sums_operator(key, x, y, *laid, g, near, ours, theirs)

    @staticmethod
    def backward(ctx, slopes):
        *tensors, found = ctx.saved_tensors
        (x, y, g, _, ours, theirs), (laid_x, laid_y) = _lists(tensors, ctx.counts)
        f = torch.where(found < INFEASIBLE, 0.0, -found)
        here, there = (x, y, laid_x, laid_y, f, g), (y, x, laid_y, laid_x, g, f)
        slopes = slopes[:, :, None]
        dx = slopes * _products(ctx.key, *here, y, [], [], ours, theirs)
        dy = _products(ctx.key, *there, slopes * x, [], [], theirs, ours)
        dg = _products(ctx.key, *there, slopes, [], [], theirs, ours)[:, :, 0]
        return None, None, dx, dy, dg, *[None] * (3 + sum(ctx.counts))


class _Products(_Pass):
    @staticmethod
    def forward(key, counts, *tensors):
        (x, y, f, g, values, ours, theirs), lists = _lists(tensors, counts)
        laid_x, laid_y, left, right = lists
        return _products_operator(
            key, x, y, laid_x, laid_y, f, g, values, left, right, ours, theirs
        )

    @staticmethod
    def backward(ctx, slopes):
        *tensors, found = ctx.saved_tensors
        (x, y, f, g, values, ours, theirs), lists = _lists(tensors, ctx.counts)
        laid_x, laid_y, left, right = lists
        here, there = (x, y, laid_x, laid_y, f, g), (y, x, laid_y, laid_x, g, f)

        def by_ours(values, left, right):
            return _products(ctx.key, *here, values, left, right, ours, theirs)

        def by_theirs(values, left, right):
            return _products(ctx.key, *there, values, right, left, theirs, ours)

        dvalues = by_theirs(slopes, left, right)
        df, dg = (slopes * found).sum(2), (values * dvalues).sum(2)
        more = [*left, slopes], [*right, values]
        dx, dy = by_ours(y, *more), by_theirs(x, *more)
        dleft, dright = [], []
        for k in range(len(left)):
            others = [[*side[:k], *side[k + 1 :]] for side in more]
            dleft.append(by_ours(right[k], *others))
            dright.append(by_theirs(left[k], *others))
        constants = [None] * (2 + ctx.counts[0] + ctx.counts[1])
        return None, None, dx, dy, df, dg, dvalues, *constants, *dleft, *dright


def _log_sums(key, x, y, laid_x, laid_y, g, near, ours, theirs):
    counts = len(laid_x), len(laid_y)
    return _LogSums.apply(key, counts, x, y, g, near, ours, theirs, *laid_x, *laid_y)


def _products(key, x, y, laid_x, laid_y, f, g, values, left, right, ours, theirs):
    lists = laid_x, laid_y, left, right
    tensors = [tensor for tensors in lists for tensor in tensors]
    counts = tuple(map(len, lists))
    return _Products.apply(key, counts, x, y, f, g, values, ours, theirs, *tensors)


# What the engine takes ----------------------------------------------------------------------------


def log_sums(sums, side, raw, offsets, extra):
    """`log sum_j exp(x_i . y_j + offsets_j)` (B, L), 0 without any pair.

    Args:
        sums: `TritonStreamed`.
        side: Whose sums are wanted; offsets are those of the other side.
        raw: Features of both sides.
        offsets: (B, L) of the other side.
        extra: Lengths of both sides; what the sums are about, or None; `laid_out`, or None.
    """
    lengths, near, laid = extra
    laid = laid_out(sums, raw) if laid is None else laid
    near = None if near is None else near.detach()
    x, y = raw[side], raw[1 - side]
    both = list(laid[side]), list(laid[1 - side])
    ours, theirs = lengths[side], lengths[1 - side]
    found = _log_sums(_key(sums), x, y, *both, offsets, near, ours, theirs)
    if _spokes(sums):

        def spoke(ours, theirs, offsets, lengths):
            return tiles.log_sums(ALL, ours, theirs, offsets, lengths)

        found = tiles.with_spokes(spoke, _log_add, found, side, raw, (offsets,), (), lengths)
    return torch.where(found < INFEASIBLE, 0.0, found)


def _log_add(a, b):
    """`torch.logaddexp`, whose second derivative is NaN where one of both is far below."""
    return torch.logsumexp(torch.stack([a, b]), 0)


def times(sums, side, features, potentials, values, lengths):
    """The plan of these potentials, or transposed, times values (B, L, V) of the other side.

    Args:
        sums: `TritonStreamed`.
        side: Whose sums are wanted.
        features: A `Side` for each side.
        potentials: f and g.
        values: (B, L, V) of the other side.
        lengths: Of both sides.
    """
    return _with_factors(sums, side, features, potentials, values, lengths)


def modulated(sums, side, features, potentials, factors, lengths):
    """`sum_j P_ij (left_i . right_j) y_j` (B, L, D) for one side, y the features of the other."""
    values = features[1 - side].raw
    return _with_factors(sums, side, features, potentials, values, lengths, factors)


def _with_factors(sums, side, features, potentials, values, lengths, factors=None):
    (x, laid_x), (y, laid_y) = features[side], features[1 - side]
    f, g = potentials[side], potentials[1 - side]
    left, right = ([], []) if factors is None else ([factors[side]], [factors[1 - side]])
    found = _products(
        _key(sums),
        x,
        y,
        list(laid_x),
        list(laid_y),
        f,
        g,
        values,
        left,
        right,
        lengths[side],
        lengths[1 - side],
    )
    if not _spokes(sums):
        return found
    mine, theirs = (f, *left), (g, *right, values)

    def spoke(ours, theirs, f, g, values, lengths):
        return tiles.apply_plan(ALL, ours, theirs, (f, g), values, lengths)

    def spoke_with_factors(ours, theirs, f, left, g, right, values, lengths):
        return tiles.modulated_plan(ALL, ours, theirs, (f, g), left, right, values, lengths)

    function = spoke if factors is None else spoke_with_factors
    raw = tuple(x.raw for x in features)
    return tiles.with_spokes(function, torch.add, found, side, raw, theirs, mine, lengths)


def _spokes(sums):
    return sums.support.spokes and sums.support.band_width is not None
