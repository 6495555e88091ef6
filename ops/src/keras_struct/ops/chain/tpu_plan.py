"""How a chain is laid out for the Pallas kernels: what a step is; how arrays get in and out.

128 examples lie on the lanes, states on the sublanes; `form.py` says what a step is. A tile is
`times` steps; the kernels run over a grid of (blocks of examples, tiles) and see one tile at once,
so no sequence is too long for VMEM.
"""

import dataclasses

from keras_struct.ops.chain.form import Form
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas import rounded
from keras_struct.ops.pallas_tpu import LANES, MEGABYTE, SUBLANES, blocks_of, off_lanes, on_lanes

MOST_VMEM = 56 * MEGABYTE
MOST_TIMES = 64
MOST_AT_ONCE = 128  # rows of ways into states
# Numbers of states.
MXU_FROM = 33
TURNED_TO = 64


@dataclasses.dataclass(frozen=True)
class Plan(Form):
    """How a chain is laid out.

    Attributes:
        matrices: Whether products by transitions are matrix products, on the MXU.
        turned: Whether VMEM has room for links by column, too.
        times: Steps of a tile.
    """

    matrices: bool = False
    turned: bool = False
    times: int = 1

    @classmethod
    def of(cls, spec, shapes, states=None, times=None, mxu_from=MXU_FROM, turned_to=TURNED_TO):
        """For canonical potentials of these shapes, None if a step does not fit in VMEM.

        `states` is their number where the shapes do not tell.
        """
        plan = cls(**Form.facts(spec, shapes, states))
        if plan.links:
            one_table = plan.links == "shared" and plan.terms == 1 and shapes[1][0] == 1
            matrices = one_table and plan.states >= mxu_from
            turned = plan.links == "shared" and plan.states <= turned_to
            plan = dataclasses.replace(plan, matrices=matrices, turned=turned)
        if times is None:
            room = (MOST_VMEM - plan._fixed_bytes) // plan._bytes_per_step
            times = min(MOST_TIMES, room)
            if times < 1:
                return None
            tiles = -(-plan.steps // times)
            times = -(-plan.steps // tiles)
        return dataclasses.replace(plan, times=times)

    @property
    def rows(self):
        return rounded(self.states, SUBLANES if self.states <= 32 else 32)

    @property
    def chunk(self):
        """Rows whose ways in are worked on at once, so that registers hold them."""
        fits = [n for n in (32, 24, 16) if self.rows % n == 0 and n * self.terms <= MOST_AT_ONCE]
        return max(fits, default=SUBLANES)

    @property
    def linked(self):
        """Rows whose links are worked on at once."""
        return min(self.rows, 32)

    @property
    def tiles(self):
        return -(-self.steps // self.times)

    @property
    def past(self):
        """How many times of g a step reads."""
        return 1 if self.moves else self.terms

    @property
    def front(self):
        """Rows before the first state."""
        return rounded(self.terms - 1, SUBLANES) if self.moves else 0

    @property
    def pairs(self):
        return self.rows * self.rows

    @property
    def _scores_bytes(self):
        inner = SUBLANES if self.alike else self.terms * self.rows
        return 4 * LANES * inner

    @property
    def _bytes_per_step(self):
        """Of the curvature, which keeps most."""
        many = self.terms if self.terms > 1 else 0
        links = 6 * self.pairs if self.links == "over_time" else 0
        rows = 20 * self.rows + 2 * self.front + 2 * many * self.rows
        return 6 * self._scores_bytes + 4 * LANES * (rows + links)

    @property
    def _fixed_bytes(self):
        # Links, their tangents and marginals; weights and logits; three by column.
        count = 5 + 3 * self.turned if self.links == "shared" else 1 if self.links else 0
        rows = (self.past + 2 * self.terms + 8) * (self.rows + self.front) * 6
        return 4 * LANES * (count * self.pairs + rows)

    # Arrays in and out: triples for `PallasTPU.call` ----------------------------------------------

    def scores(self, x, batch, fill=FORBIDDEN):
        """The first potential as (blocks, steps, terms, rows, LANES), or (..., terms, LANES);
        rows without a state hold `fill`."""
        from jax import numpy as jnp

        if x.ndim == 3:
            x = x[:, :, None]
        elif self.moves:
            x = x.swapaxes(2, 3)
        later = [(0, 0), (0, self.tiles * self.times - self.steps)]
        if self.alike:
            wide = [*later, (0, rounded(self.terms, SUBLANES) - self.terms)]
            return on_lanes(jnp.pad(x[..., 0], wide), batch)
        wide = [(0, 0), (0, 0), (0, 0), (0, self.rows - self.states)]
        x = jnp.pad(x, wide, constant_values=fill)
        return on_lanes(jnp.pad(x, [*later, (0, 0), (0, 0)]), batch)

    def of_scores(self, x, batch):
        """From the layout of `scores` back to (B, N, D, K) or (B, N, K or 1, M)."""
        x = off_lanes(x, batch)[:, : self.steps]
        if self.alike:
            return x[:, :, None, : self.terms]
        x = x[..., : self.states]
        return x.swapaxes(2, 3) if self.moves else x

    def scores_shape(self, batch):
        inner = (rounded(self.terms, SUBLANES),) if self.alike else (self.terms, self.rows)
        return blocks_of(batch), self.tiles * self.times, *inner, LANES

    def pairs_of(self, x, batch):
        """Transitions as (blocks, rows^2, LANES), over time (blocks, steps, rows^2, LANES)."""
        from jax import numpy as jnp

        more = self.rows - self.states
        x = jnp.pad(x.reshape(x.shape[0], -1, *x.shape[-2:]), [(0, 0)] * 2 + [(0, more)] * 2)
        x = x.reshape(*x.shape[:2], self.pairs)
        if self.links == "shared":
            return on_lanes(x[:, 0], batch)
        later = self.tiles * self.times - x.shape[1]
        return on_lanes(jnp.pad(x, [(0, 0), (0, later), (0, 0)]), batch)

    def of_pairs(self, x, batch):
        """From (to, from) on the sublanes to (B, K, K) or (B, N - 1, K, K)."""
        x = off_lanes(x, batch)
        x = x.reshape(*x.shape[:-1], self.rows, self.rows)[..., : self.states, : self.states]
        x = x.swapaxes(-1, -2)
        return x if self.links == "shared" else x[:, : self.steps - 1]

    def pairs_shape(self, batch):
        steps = (self.tiles * self.times,) if self.links == "over_time" else ()
        return blocks_of(batch), *steps, self.pairs, LANES
