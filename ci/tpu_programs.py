"""The programs that `tpu_compile.py` compiles for TPUs: public calls, whose kernels it reads.

A family of kernels adds its programs here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_struct import ops

CHIPS = ("v5e", "v6e", "v5p", "7x")


class Program(NamedTuple):
    """A function of arrays of public calls.

    Attributes:
        name: Unique name.
        shapes: Shapes of its float32 arguments.
        run: The function.
        chips: The chips for which it is compiled, of those whose VMEM has room for it.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    run: Callable[..., Any]
    chips: tuple[str, ...] = CHIPS[:2]


def _map(function):
    """Value and marginals, and the gradient of a function of the marginals, by their curvature."""
    import jax
    from jax import numpy as jnp

    def loss(*arrays):
        d = function(*arrays)
        return jnp.sum(d.marginals() ** 2)

    return lambda *arrays: (function(*arrays).value(), jax.grad(loss)(*arrays))


def _paths(function):
    def run(*arrays):
        d = function(*arrays)
        return d.argmax(), d.sample(0, 2)

    return run


def _alignments():
    size = (128, 511, 512)
    ragged = np.arange(128, dtype="int32") * 4, np.arange(128, dtype="int32")[::-1] * 4
    functions = {
        "needleman_wunsch": lambda s: ops.needleman_wunsch(s, gap_open=-1.0),
        "smith_waterman affine": lambda s: ops.smith_waterman(s, -1.0, -0.5, lengths=ragged),
        "overlap per cell": lambda s, gap: ops.overlap(s, gap),
        "monotonic_alignment": ops.monotonic_alignment,
        "osa": lambda s: ops.osa(s, np.ones(size, bool), 1.0, 1.0, 1.0),
        "needleman_wunsch bfloat16": lambda s: ops.needleman_wunsch(s.astype("bfloat16"), -1.0),
    }
    shapes = dict.fromkeys(functions, (size,)) | {"overlap per cell": (size, size)}
    made = []
    for name, function in functions.items():
        chips = CHIPS if name == "needleman_wunsch" else CHIPS[:2]
        made.append(Program(f"{name}: map", shapes[name], _map(function), chips))
        if name in ("needleman_wunsch", "smith_waterman affine"):
            made.append(Program(f"{name}: paths", shapes[name], _paths(function)))
    linear = functions["needleman_wunsch"]
    # The longest that VMEM must hold.
    for name, columns, function in (
        ("needleman_wunsch long", 16384, linear),
        ("needleman_wunsch affine long", 4096, lambda s: ops.needleman_wunsch(s, -1.0, -0.5)),
    ):
        made.append(Program(f"{name}: map", ((128, 127, columns),), _map(function)))
    return made


def _chains():
    ragged = np.arange(128, dtype="int32") * 2
    frames = (128, 256, 64)
    labels = np.arange(1, 64, dtype="int32") + np.zeros((128, 1), "int32")
    functions = {
        "linear_chain K=8": (((128, 256, 8), (8, 8)), ops.linear_chain),
        "linear_chain K=32": (
            ((128, 256, 32), (32, 32)),
            lambda u, t: ops.linear_chain(u, t, lengths=ragged),
        ),
        "linear_chain K=128": (((128, 256, 128), (128, 128)), ops.linear_chain),
        "linear_chain over time": (((128, 64, 16), (128, 63, 16, 16)), ops.linear_chain),
        "semi_markov": (((128, 128, 12, 16), (16, 16)), ops.semi_markov),
        "ctc": ((frames,), lambda x: ops.ctc(x, labels)),
        "subset": (((128, 256),), lambda x: ops.subset(x, 50)),
    }
    everywhere = ("linear_chain K=8", "linear_chain K=32")
    made = [
        Program(f"{n}: map", shapes, _map(run), CHIPS if n in everywhere else CHIPS[:2])
        for n, (shapes, run) in functions.items()
    ]
    for name in ("linear_chain K=32", "semi_markov", "ctc"):
        shapes, run = functions[name]
        made.append(Program(f"{name}: paths", shapes, _paths(run)))
    return made


def _charts():
    sentences = (128, 64, 64)
    ragged = np.arange(128, dtype="int32") // 2 + 1
    made = [
        Program("cky: map", (sentences,), _map(lambda x: ops.cky(x, lengths=ragged)), CHIPS),
        Program("cky: paths", (sentences,), _paths(ops.cky), CHIPS),
        Program("nussinov: map", (sentences,), _map(ops.nussinov), CHIPS),
        Program("eisner: map", (sentences,), _map(ops.eisner)),
    ]
    # The longest that VMEM holds.
    for function, n in ((ops.cky, 182), (ops.eisner, 94)):
        name = f"{function.__name__} long: map"
        made.append(Program(name, ((128, n, n),), _map(function)))
    return made


def _attention(dtype, **options):
    """Attention by transport, and its gradients."""
    import jax
    from jax import numpy as jnp

    def run(*arrays):
        query, key, value = (x.astype(dtype) for x in arrays)

        def loss(query, key, value):
            return jnp.sum(ops.sinkhorn_tail(query, key, value, **options).astype("float32") ** 2)

        return jax.value_and_grad(loss, (0, 1, 2))(query, key, value)

    return run


def _transport():
    def band(*arrays):
        token = arrays[0][0, 0].astype("bfloat16")
        nothing = ops.Dustbin(token, token)
        return _attention("bfloat16", band_width=128, dustbin=nothing)(*arrays)

    dense, long = ((4, 4096, 64),) * 3, ((2, 16384, 64),) * 3
    chips = "v5e", "v6e", "v5p"
    return [
        Program("sinkhorn_tail: bfloat16", dense, _attention("bfloat16"), chips),
        Program("sinkhorn_tail: float32", dense, _attention("float32"), chips),
        Program("sinkhorn_tail: band and dustbin", long, band, chips),
    ]


def _spanning_trees():
    def run(arcs):
        d, best = ops.spanning_tree(arcs), ops.spanning_tree(arcs, temperature=0)
        return d.value(), d.marginals(), best.value()

    # The longest that VMEM holds.
    return [
        Program("spanning_tree", ((128, 64, 64),), run),
        Program("spanning_tree long", ((128, 83, 83),), run),
    ]


def _grammars():
    """Of so many words, nonterminals and preterminals."""

    def of(lengths=None):
        return lambda rules, terms, roots: ops.pcfg(rules, terms, roots, lengths)

    def shapes(n, k, p, shared):
        lead = () if shared else (128,)
        return (*lead, k, k + p, k + p), (128, n, p), (*lead, k)

    ragged = np.arange(128, dtype="int32") % 29
    small, large = shapes(28, 16, 16, False), shapes(29, 20, 20, True)
    return [
        Program("pcfg: map", small, _map(of(ragged))),
        Program("pcfg: paths", small, _paths(of())),
        Program("pcfg large: map", large, _map(of())),
    ]


def programs():
    every = (_alignments, _chains, _charts, _transport, _spanning_trees, _grammars)
    return [program for family in every for program in family()]
