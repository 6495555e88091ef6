"""Agreement with programs that others wrote, and with closed forms."""

import math

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.testing import HAS_GRADIENTS, array, float64, grad, tensor

parasail = pytest.importorskip("parasail", reason="parasail is not installed")
distance = pytest.importorskip("rapidfuzz.distance", reason="rapidfuzz is not installed")

AMINO_ACIDS = "ARNDCQEGHILKMFPSTVWY"


def _words(seed, alphabet, count=6, longest=12):
    rng = np.random.default_rng(seed)
    word = lambda: "".join(rng.choice(list(alphabet), rng.integers(1, longest + 1)))  # noqa: E731
    return [(word(), word()) for _ in range(count)]


def _padded(pairs, cell, fill=np.nan):
    """Tables (B, L1, L2) of `cell(a, b)` and both lengths."""
    lengths = tuple(np.array([len(pair[axis]) for pair in pairs], "int32") for axis in range(2))
    tables = np.full((len(pairs), lengths[0].max(), lengths[1].max()), fill, "float32")
    for table, (x, y) in zip(tables, pairs, strict=True):
        table[: len(x), : len(y)] = [[cell(a, b) for b in y] for a in x]
    return tables, lengths


def _ids(words, size):
    return np.array([[ord(c) for c in w] + [-1] * (size - len(w)) for w in words], "int32")


def _path(steps, start, size):
    """Event from steps (di, dj)."""
    nodes = [start]
    for di, dj in steps:
        nodes.append((nodes[-1][0] + di, nodes[-1][1] + dj))
    return np.array(nodes + [(-1, -1)] * (size - len(nodes)), "int32")


@pytest.mark.parametrize("gaps", [(11, 1), (4, 4), (3, 2)], ids=str)
@pytest.mark.parametrize("name", ["needleman_wunsch", "smith_waterman", "overlap"])
def test_best_alignments_equal_parasail(name, gaps):
    pairs = _words(1, AMINO_ACIDS, longest=20)
    blosum = parasail.blosum62
    index = blosum.mapper
    scores, lengths = _padded(pairs, lambda a, b: blosum.matrix[index[ord(a)], index[ord(b)]])
    # At equal scores the affine recurrence is the linear one, and both equal parasail's.
    extends = [-gaps[1], None] if gaps[0] == gaps[1] else [-gaps[1]]
    mode = {"needleman_wunsch": "nw", "smith_waterman": "sw", "overlap": "sg"}[name]
    align = getattr(parasail, f"{mode}_trace_striped_32")
    results = [align(x, y, *gaps, blosum) for x, y in pairs]
    for extend in extends:
        d = getattr(ops, name)(scores, -gaps[0], extend, lengths=lengths, temperature=0)
        value = array(d.value())
        np.testing.assert_allclose(array(d.score(d.argmax())), value, rtol=1e-6)
        for b, result in enumerate(results):
            # parasail's local score is at least 0, its local alignment may be empty.
            assert result.score == (max(value[b], 0) if mode == "sw" else value[b])
        if mode == "sg":
            continue  # Its paths include the free ends.
        events = []
        for result in results:
            cigar = result.cigar
            steps = []
            for code in cigar.seq:
                step = {"=": (1, 1), "X": (1, 1), "I": (1, 0), "D": (0, 1)}[
                    cigar.decode_op(code).decode()
                ]
                steps += [step] * cigar.decode_len(code)
            start = (cigar.beg_query, cigar.beg_ref)
            while mode == "sw" and steps[0] != (1, 1):  # parasail prints some skipped prefixes
                start = (start[0] + steps[0][0], start[1] + steps[0][1])
                steps = steps[1:]
            events.append(_path(steps, start, scores.shape[1] + scores.shape[2] + 1))
        found = value > 0 if mode == "sw" else np.full(len(pairs), True)
        theirs = array(d.score(np.stack(events)))
        np.testing.assert_allclose(theirs[found], value[found], rtol=1e-6)


def test_best_edits_equal_rapidfuzz():
    pairs = _words(2, "abcd", count=20)
    costs, lengths = _padded(pairs, lambda a, b: float(a != b))
    first, second = (
        _ids([pair[axis] for pair in pairs], costs.shape[1 + axis]) for axis in range(2)
    )
    swaps = ops.adjacent_swaps(first, second)
    sources = ops.transposition_sources(first, second)
    scores = np.where(costs == 0, 1.0, -np.inf).astype("float32")
    for d, peer in (
        (ops.levenshtein(costs, lengths=lengths, temperature=0), distance.Levenshtein.distance),
        (ops.osa(costs, swaps, lengths=lengths, temperature=0), distance.OSA.distance),
        (
            ops.damerau(costs, sources, lengths=lengths, temperature=0),
            distance.DamerauLevenshtein.distance,
        ),
        (ops.lcs(scores, lengths=lengths, temperature=0), distance.LCSseq.similarity),
    ):
        expected = [peer(x, y) for x, y in pairs]
        np.testing.assert_allclose(array(d.value()), expected, err_msg=d.structure.op)
        np.testing.assert_allclose(array(d.score(d.argmax())), expected)


def test_best_edit_paths_equal_rapidfuzz():
    pairs = _words(3, "abc", count=10)
    costs, lengths = _padded(pairs, lambda a, b: float(a != b))
    d = ops.levenshtein(costs, lengths=lengths, temperature=0)
    events = []
    for x, y in pairs:
        steps = []
        for block in distance.Levenshtein.opcodes(x, y):
            rows, columns = block.src_end - block.src_start, block.dest_end - block.dest_start
            pairwise = block.tag in ("equal", "replace")
            steps += [(1, 1)] * rows if pairwise else [(1, 0)] * rows + [(0, 1)] * columns
        events.append(_path(steps, (0, 0), costs.shape[1] + costs.shape[2] + 1))
    np.testing.assert_allclose(array(d.score(np.stack(events))), array(d.value()))


@pytest.mark.parametrize("gamma", [0.1, 1.0, 5.0])
def test_soft_dtw_equals_tslearn(gamma):
    metrics = pytest.importorskip("tslearn.metrics", reason="tslearn is not installed")
    rng = np.random.default_rng(4)
    costs = rng.normal(size=(7, 9)) ** 2
    peer = metrics.SoftDTW(costs, gamma=gamma)
    with float64():
        d = ops.dtw(tensor(costs), temperature=gamma)
        np.testing.assert_allclose(array(d.value()), peer.compute(), rtol=1e-6)
        np.testing.assert_allclose(array(d.marginals()), peer.grad(), atol=1e-6)
        if HAS_GRADIENTS:
            (g,) = grad(lambda x: ops.dtw(x, temperature=gamma).value())(tensor(costs))
            np.testing.assert_allclose(array(g), peer.grad(), atol=1e-6)


def _delannoy(n, m):
    return sum(math.comb(n, k) * math.comb(m, k) * 2**k for k in range(min(n, m) + 1))


def _disjoint(n, m):
    """Alignments without adjacent gaps, by their definition: strings over M, X, Y."""
    counts = {(0, 0, "M"): 1}
    for i in range(n + 1):
        for j in range(m + 1):
            for state, (di, dj), before in (
                ("M", (1, 1), "MXY"),
                ("X", (1, 0), "MX"),
                ("Y", (0, 1), "MY"),
            ):
                if (i, j) != (0, 0):
                    counts[i, j, state] = sum(counts.get((i - di, j - dj, s), 0) for s in before)
    return sum(counts.get((n, m, s), 0) for s in "MXY")


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (6, 3), (7, 7)], ids=str)
def test_counts_at_zero_scores(shape):
    n, m = shape
    with float64():
        zeros = tensor(np.zeros(shape))
        for distribution, count in (
            (ops.needleman_wunsch(zeros, 0.0), _delannoy(n, m)),
            (ops.needleman_wunsch(zeros, 0.0, 0.0), _delannoy(n, m)),
            (ops.needleman_wunsch(zeros, 0.0, adjacent_gaps="ordered"), math.comb(n + m, n)),
            (ops.needleman_wunsch(zeros, 0.0, 0.0, adjacent_gaps="ordered"), math.comb(n + m, n)),
            (ops.needleman_wunsch(zeros, 0.0, 0.0, adjacent_gaps="none"), _disjoint(n, m)),
            (
                ops.smith_waterman(zeros, 0.0),
                sum(
                    (n - i) * (m - j) * (_delannoy(i - 1, j - 1) if i and j else i == j)
                    for i in range(n)
                    for j in range(m)
                ),
            ),
            (
                ops.smith_waterman(zeros, 0.0, 0.0, adjacent_gaps="ordered"),
                math.comb(n + m, n) - 1,
            ),
            (ops.saigo_vert(zeros, 0.0), math.comb(n + m, n)),
            (ops.saigo_vert(zeros, 0.0, 0.0), math.comb(n + m, n)),
            (ops.dtw(zeros), _delannoy(n - 1, m - 1)),
            (ops.levenshtein(zeros, 0.0, 0.0), _delannoy(n, m)),
            (ops.lcs(zeros), _delannoy(n, m)),
        ):
            log_partition = array(distribution.log_partition())
            np.testing.assert_allclose(np.exp(log_partition), count, rtol=1e-9)
        frames = max(n, m)
        d = ops.monotonic_alignment(tensor(np.zeros((frames, min(n, m)))))
        count = math.comb(frames - 1, min(n, m) - 1)
        np.testing.assert_allclose(np.exp(array(d.value())), count, rtol=1e-9)


@pytest.mark.parametrize("name", ["gap_open", "gap_extend", "temperature"])
def test_jacobian_is_the_derivative_of_the_map(name):
    rng = np.random.default_rng(6)
    scores, step = rng.normal(size=(2, 4, 5)), 1e-5
    at = {"gap_open": -1.0, "gap_extend": -0.3, "temperature": 0.7}

    def make(shift=0.0):
        values = {key: x + shift * (key == name) for key, x in at.items()}
        gaps = {key: tensor(x) for key, x in values.items() if key != "temperature"}
        lengths, temperature = (np.array([4, 3]), np.array([5, 2])), values["temperature"]
        return ops.smith_waterman(tensor(scores), lengths=lengths, temperature=temperature, **gaps)

    with float64():
        numeric = (array(make(step).marginals()) - array(make(-step).marginals())) / (2 * step)
        np.testing.assert_allclose(array(make().jacobian(name)), numeric, atol=1e-8)


def test_long_float32_scores_of_1e4_keep_their_marginals():
    rng = np.random.default_rng(7)
    scores = (1e4 * rng.normal(size=(2, 60, 50))).astype("float32")
    for make in (
        lambda x: ops.needleman_wunsch(x, -5e3, -1e3, temperature=300.0),
        lambda x: ops.smith_waterman(x, -5e3, temperature=300.0),
        lambda x: ops.dtw(x * x / 1e4, temperature=300.0),
    ):
        low = make(keras.ops.convert_to_tensor(scores))
        with float64():
            high = make(tensor(scores.astype("float64")))
            expected, value = array(high.marginals()), array(high.value())
        np.testing.assert_allclose(array(low.marginals()), expected, atol=2e-4)
        np.testing.assert_allclose(array(low.value()), value, rtol=1e-6)
