"""A structure on the lattice, as data: states, moves, where paths start and end."""

import dataclasses
import functools

# Source of the first move of a local alignment: a state of score 0 at every node.
START = -1


@dataclasses.dataclass(frozen=True)
class Move:
    """From state `source` at node (i - di, j - dj) to state `target` at node (i, j).

    Attributes:
        source: State before, or `START`.
        target: State after; it depends on (di, dj) only.
        di: Symbols of the first sequence that the move consumes.
        dj: Symbols of the second sequence that the move consumes.
        channel: Index of the canonical potential that scores it, read at cell (i-1, j-1); None
            for score 0.
    """

    source: int
    target: int
    di: int
    dj: int
    channel: int | None


@dataclasses.dataclass(frozen=True)
class Spec:
    """States and moves on the nodes (i, j), 0 <= i <= L1 and 0 <= j <= L2.

    Attributes:
        moves: All moves.
        kinds: For each canonical potential "cell" (shape (B, L1, L2), forbidden on the border) or
            "gap" (shape (B, 1 | L1, 1 | L2); a gap before the first row or column reads the first).
        start: "corner" (state 0 at node (0, 0)), "border" (state 0 on the first row or column,
            where no move enters) or "anywhere" (moves from `START`).
        end: "corner" (any state at the last node), "border" (any state on the last row or column)
            or "anywhere" (state 0).
        empty: Whether there is one more structure, empty and of score 0.
        by_rows: Whether time runs over rows (every move has di = 1) and not over anti-diagonals.
        jumps: Whether the last canonical potential scores jumps (see `jumps`).
        event: "nodes", "cells" or "columns", see `events`.
        rules: The same structure in the words of `reference.py`.
    """

    moves: tuple[Move, ...]
    kinds: tuple[str, ...]
    start: str = "corner"
    end: str = "corner"
    empty: bool = False
    by_rows: bool = False
    jumps: bool = False
    event: str = "nodes"
    rules: tuple = ()

    @functools.cached_property
    def states(self):
        return 1 + max(move.target for move in self.moves)

    @functools.cached_property
    def window(self):
        """How many earlier times a move may look back."""
        return max(self.lag(move) for move in self.moves)

    def lag(self, move):
        return move.di if self.by_rows else move.di + move.dj

    def offset(self, move):
        return move.dj if self.by_rows else move.di

    def into(self, state):
        """Indices of the moves into a state."""
        return tuple(k for k, move in enumerate(self.moves) if move.target == state)

    def emission(self, state):
        """The channel of the moves into a state if they share one (and their lag), else None."""
        moves = [self.moves[k] for k in self.into(state)]
        channels = {move.channel for move in moves}
        return moves[0].channel if len(channels) == 1 else None


def alignment(mode, affine, adjacent, pairs=(False, False)):
    """Match, row gaps, column gaps: states M, X, Y (fewer where they need not be told apart).

    Args:
        mode: "global", "overlap" or "local".
        affine: Whether a gap extends at another score than it opens.
        adjacent: "any", "none" or "ordered" (a row gap may precede a column gap).
        pairs: Whether row gaps and column gaps have potentials of their own, for open and extend.
    """
    count = 2 + pairs[0]
    open_row, open_column = 1, count - 1
    extend_row, extend_column = open_row, open_column
    if affine:
        extend_row, extend_column = count, count + pairs[1]
        count = extend_column + 1
    local = mode == "local"
    if affine or adjacent != "any":
        m, x, y = 0, 1, 2
    else:
        m, x, y = (0, 1, 1) if local else (0, 0, 0)
    before_row = {m: open_row, x: extend_row}
    before_column = {m: open_column, y: extend_column}
    if adjacent == "any":
        before_row.setdefault(y, open_row)
    if adjacent in ("any", "ordered"):
        before_column.setdefault(x, open_column)
    moves = [Move(START, m, 1, 1, 0)] if local else []
    moves += [Move(state, m, 1, 1, 0) for state in sorted({m, x, y})]
    moves += [Move(state, x, 1, 0, channel) for state, channel in before_row.items()]
    moves += [Move(state, y, 0, 1, channel) for state, channel in before_column.items()]
    where = {"global": "corner", "overlap": "border", "local": "anywhere"}[mode]
    rules = ("gapped", mode, affine, adjacent, pairs)
    return Spec(tuple(moves), ("cell",) + ("gap",) * (count - 1), where, where, rules=rules)


def edit(swaps):
    """Substitution, deletion, insertion and, with `swaps`, the swap of two neighbours."""
    moves = [Move(0, 0, 1, 1, 0), Move(0, 0, 1, 0, 1), Move(0, 0, 0, 1, 2)]
    if not swaps:
        return Spec(tuple(moves), ("cell", "gap", "gap"), rules=("edit", (0, 1, 2)))
    moves.append(Move(0, 0, 2, 2, 3))
    kinds = ("cell", "gap", "gap", "cell")
    return Spec(tuple(moves), kinds, rules=("edit", (0, 1, 2, 3)))


DAMERAU = dataclasses.replace(
    edit(swaps=False), kinds=("cell", "gap", "gap", "cell"), jumps=True, rules=("damerau",)
)
DTW = Spec(
    (Move(0, 0, 1, 1, 0), Move(0, 0, 1, 0, 0), Move(0, 0, 0, 1, 0)),
    ("cell",),
    event="cells",
    rules=("dtw",),
)
MONOTONIC = Spec(
    (Move(0, 0, 1, 1, 0), Move(0, 0, 1, 0, 0)),
    ("cell",),
    by_rows=True,
    event="columns",
    rules=("monotonic",),
)
LCS = Spec(
    (Move(0, 0, 1, 1, 0), Move(0, 0, 1, 0, None), Move(0, 0, 0, 1, None)),
    ("cell",),
    rules=("edit", (0, None, None)),
)
