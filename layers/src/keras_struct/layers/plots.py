"""Pictures of what layers have learned and found (matplotlib, `keras-struct-layers[plots]`).

Every function draws on the axes `ax`, or on new ones, and returns the axes:
`plots.alignment(found).figure.savefig("found.png")`. Tensors of all backends and NumPy arrays are
taken; a batch has no place in a picture, so they are those of one example.
"""

import importlib.util

import numpy as np
from keras import ops as K

FORBIDDEN_COLOUR = "0.85"
MOST_TICKS = 40  # names along an axis


def transitions(crf, labels=None, ax=None):
    """Scores of neighbouring tags, of the first and of the last one; grey where they are forbidden.

    Args:
        crf: A built `CRF` or `SemiMarkovCRF`.
        labels: Names of the tags.
        ax: Axes, or None for new ones.

    Returns:
        The axes: rows are a tag or the start, columns the next tag or the end.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from keras_struct import layers
    >>> from keras_struct.layers import plots
    >>> crf = layers.CRF(3, constraints=layers.tag_constraints(["O", "B-X", "I-X"]))
    >>> crf.build((None, None, 4))
    >>> ax = plots.transitions(crf, ["O", "B-X", "I-X"])
    """
    k = crf.num_tags
    scores = np.full((k + 1, k + 1), np.nan)
    for place, weights in (
        ((slice(1, None), slice(0, k)), crf.transitions),
        ((0, slice(0, k)), crf.start),
        ((slice(1, None), k), crf.end),
    ):
        scores[place] = 0.0 if weights is None else _array(weights)
    if crf.constraints is not None:
        allowed, start, end = crf.constraints
        forbidden = np.zeros_like(scores, bool)
        forbidden[1:, :k], forbidden[0, :k], forbidden[1:, k] = ~allowed, ~start, ~end
        scores[forbidden] = np.nan
    names = _names(labels, k)
    ax = _heatmap(scores, ["start", *names], [*names, "end"], ax, diverging=True)
    ax.set_xlabel("next tag")
    ax.set_ylabel("tag")
    return ax


def tag_marginals(marginals, tokens=None, labels=None, tags=None, ax=None):
    """The probability of each tag at each token.

    Args:
        marginals: `(N, K)`, as `decoding_model(model, "marginals")` gives them.
        tokens: The N tokens, as strings; None for their numbers.
        labels: Names of the tags.
        tags: Integers `(N,)`, such as the best tags, which are marked; negative ones are not.
        ax: Axes, or None for new ones.

    Returns:
        The axes: tokens from left to right, tags from top to bottom.

    Example:

    >>> import matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> from keras_struct.layers import plots
    >>> p = np.array([[0.9, 0.1], [0.3, 0.7]])
    >>> ax = plots.tag_marginals(p, ["a", "dog"], ["O", "B"], tags=[0, 1])
    """
    p = _matrix("marginals", marginals)
    ax = _heatmap(p.T, _names(labels, p.shape[1]), _names(tokens, p.shape[0]), ax, limits=(0, 1))
    if tags is not None:
        places = [(n, tag) for n, tag in enumerate(_array(tags)) if tag >= 0]
        ax.plot(
            *zip(*places, strict=True), "o", color="black", markersize=5, markerfacecolor="none"
        )
    return ax


def alignment(matched, path=None, first=None, second=None, ax=None):
    """How probable it is that two tokens are matched, with the best path.

    Args:
        matched: `(L1, L2)` probabilities, as `Aligner` and alignment attention give them.
        path: Nodes `(M, 2)` as `decoding_model(aligner)` and `argmax` give them, then -1; how many
            tokens of each sequence are consumed.
        first: The L1 tokens, as strings; None for their numbers.
        second: The L2 tokens.
        ax: Axes, or None for new ones.

    Returns:
        The axes: the first sequence from top to bottom, the second from left to right.

    Example:

    >>> import matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> from keras_struct import ops
    >>> from keras_struct.layers import plots
    >>> d = ops.needleman_wunsch(np.eye(3, 4, dtype="float32")[None], gap_open=-1.0)
    >>> ax = plots.alignment(d.marginals()[0], d.argmax()[0], "abc", "abcd")
    """
    p = _matrix("matched", matched)
    ax = _heatmap(p, _names(first, p.shape[0]), _names(second, p.shape[1]), ax, limits=(0, 1))
    if path is not None:
        nodes = _array(path)
        nodes = nodes[(nodes >= 0).all(-1)]
        # A node lies between tokens: at the corner of the cells of those before it.
        ax.plot(nodes[:, 1] - 0.5, nodes[:, 0] - 0.5, "-", color="tab:red", linewidth=1.5)
    return ax


def gaps(potentials, example=0, ax=None):
    """Scores of opening and extending a gap at every token, as an `Aligner` has learned them.

    Args:
        potentials: `AlignmentPotentials`, such as `unpack(model(inputs))`.
        example: Number of the example.
        ax: Axes, or None for new ones.

    Returns:
        The axes: places in the sequences from left to right, a line for each kind of gap.

    Example:

    >>> import matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> from keras_struct import layers
    >>> from keras_struct.layers import plots
    >>> states = np.ones((1, 4, 8), "float32")
    >>> ax = plots.gaps(layers.unpack(layers.Aligner()(states, states)))
    """
    ax = _axes(ax)
    positions = [_array(x)[example] for x in potentials.positions()]
    for name, scores in (("open", potentials.gap_open), ("extend", potentials.gap_extend)):
        if scores is None:
            continue
        pair = scores if isinstance(scores, tuple) else (scores, scores)
        for sequence, x, there, style in zip(
            ("first", "second"), pair, positions, ("-", "--"), strict=True
        ):
            x = _array(x)
            x = np.ravel(x[example] if x.ndim else x)
            x = np.where(there, np.broadcast_to(x, there.shape), np.nan)
            ax.plot(x, style, marker=".", label=f"{name}, {sequence} sequence")
    ax.set_xlabel("token")
    ax.set_ylabel("score")
    ax.legend()
    return ax


def dependency_tree(tree, words, relations=None, ax=None):
    """A dependency tree as arcs above its words, from heads to dependents.

    Args:
        tree: Heads `(N,)`, 0 for the root, else the number of the head from 1; or `(N, 2)` with
            relations, as `decoding_model` of a parser gives them. -1 is padding.
        words: The words, as strings.
        relations: Names of the relations.
        ax: Axes, or None for new ones.

    Returns:
        The axes.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from keras_struct.layers import plots
    >>> ax = plots.dependency_tree([2, 0, 2], ["she", "reads", "books"])
    """
    ax, tree = _axes(ax), _array(tree)
    tree = tree[:, None] if tree.ndim == 1 else tree
    highest = 1.0
    for n, (head, *label) in enumerate(tree):
        if head < 0:
            continue
        name = str(relations[label[0]]) if label and relations is not None else ""
        if head == 0:
            ax.annotate("", (n, 0.1), (n, 0.9), arrowprops={"arrowstyle": "->"})
            ax.text(n, 0.95, name or "root", ha="center", va="bottom", fontsize=8)
            continue
        start, height = head - 1, abs(head - 1 - n) / 2 + 0.3
        highest = max(highest, height)
        angle = np.linspace(0, np.pi, 50)
        middle, radius = (start + n) / 2, (n - start) / 2
        ax.plot(middle - radius * np.cos(angle), height * np.sin(angle), color="tab:blue")
        ax.plot([n], [0.03], marker="v", color="tab:blue")
        ax.text(middle, height + 0.03, name, ha="center", va="bottom", fontsize=8)
    _under(ax, words, (0, highest + 0.4))
    return ax


def constituency_tree(spans, words, labels=None, ax=None):
    """A constituency tree as a bracket for each span, the whole sentence on top.

    Args:
        spans: `(M, 3)` start, end (exclusive) and label, as `decoding_model` of a parser gives
            them; -1 is padding.
        words: The words, as strings.
        labels: Names of the labels; spans whose name is empty are left out.
        ax: Axes, or None for new ones.

    Returns:
        The axes.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from keras_struct.layers import plots
    >>> spans = [[0, 3, 0], [1, 3, 1], [0, 1, 2], [1, 2, 2], [2, 3, 2]]
    >>> ax = plots.constituency_tree(spans, ["she", "reads", "books"], ["S", "VP", ""])
    """
    ax = _axes(ax)
    named = [
        (start, end, str(label) if labels is None else str(labels[label]))
        for start, end, label in _array(spans).tolist()
        if start >= 0
    ]
    named = sorted((span for span in named if span[2]), key=lambda span: span[1] - span[0])
    heights: dict = {}
    for start, end, name in named:
        inside = [h for (a, b), h in heights.items() if start <= a and b <= end]
        height = heights[start, end] = 1 + max(inside, default=0)
        left, right = start - 0.35, end - 0.65
        ax.plot([left, left, right, right], [height - 0.3, height, height, height - 0.3], "k-")
        ax.text((left + right) / 2, height + 0.05, name, ha="center", va="bottom")
    _under(ax, words, (0, max(heights.values(), default=0) + 0.8))
    return ax


def _under(ax, words, limits):
    """The words below a tree."""
    ax.set_xlim(-0.6, len(words) - 0.4)
    ax.set_ylim(*limits)
    ax.set_xticks(range(len(words)), words)
    ax.set_yticks([])
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)


def _heatmap(values, rows, columns, ax, limits=None, diverging=False):
    import matplotlib

    ax = _axes(ax)
    if diverging:
        most = np.nanmax(np.abs(values), initial=0.0) or 1.0
        limits = (-most, most)
    colours = matplotlib.colormaps["RdBu" if diverging else "Blues"].with_extremes(
        bad=FORBIDDEN_COLOUR
    )
    image = ax.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    ax.figure.colorbar(image, ax=ax)
    for axis, names in ((ax.xaxis, columns), (ax.yaxis, rows)):
        few = max(1, -(-len(names) // MOST_TICKS))
        axis.set_ticks(range(0, len(names), few), names[::few])
    return ax


def _axes(ax):
    if ax is not None:
        return ax
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            "Plots need matplotlib. Install it by `pip install keras-struct-layers[plots]`."
        )
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _array(x):
    return K.convert_to_numpy(K.stop_gradient(x)) if K.is_tensor(x) else np.asarray(x)


def _matrix(name, x):
    x = _array(x)
    if x.ndim != 2:
        raise ValueError(
            f"Expected {name} of one example, with two axes. Received: shape of {name}={x.shape}"
        )
    return x


def _names(names, n):
    """The names, or numbers, of n things."""
    if names is None:
        return [str(k) for k in range(n)]
    if len(names) != n:
        raise ValueError(f"Expected {n} names. Received: {len(names)}, {list(names)}")
    return [str(name) for name in names]
