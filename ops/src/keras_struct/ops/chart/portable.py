"""The sweeps of every structure over spans (see `recurrence.md`). Memory N², time N³.

The tape is, for each product of the spec, its values by width, and for each item on the right the
columns that fall off its moving frame, all as `Scaled`.
"""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chart.chart import Chart, swap
from keras_struct.ops.chart.kbest import kbest
from keras_struct.ops.chart.outside import Choice, Posterior, PosteriorRates, descend
from keras_struct.ops.chart.spec import Spec
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.scaled import Scaled
from keras_struct.ops.sweeps import Sweeps


class ChartSweeps(Sweeps):
    """Subclasses give the spec and the three functions between potentials and spans by width.

    Context: lengths (B,).
    """

    @property
    def spec(self) -> Spec:
        raise NotImplementedError

    def by_width(self, potentials):
        """Log-scores of every scored item (B, W, N), and of the cuts of every scored product
        (B, W, N, N)."""
        raise NotImplementedError

    def by_part(self, items, cuts):
        """The transpose of `by_width`: one array per potential."""
        raise NotImplementedError

    def event(self, used):
        """The event, from the parts (int32, one array per potential) that are used."""
        raise NotImplementedError

    def forward(self, potentials, context, op):
        chart = Chart(self.spec, *self.by_width(potentials))
        products, lost = chart.inside(array.max if op == "max" else array.sum)
        tape = tuple(x for pair in (*products, *lost) for x in swap(pair))
        return chart.log_partition(products, context[0]), tape

    def backward(self, potentials, context, tape):
        chart, products, lost, lengths = self._read(potentials, context, tape)
        items, cuts = descend(chart, Posterior(chart, products, lost), lengths)
        return self.by_part([swap(p) for (p,) in items], [swap(p) for (p,) in cuts])

    def curvature(self, potentials, context, tape, tangents):
        chart, products, lost, lengths = self._read(potentials, context, tape)
        share = PosteriorRates(chart, products, lost, *self.by_width(tangents))
        items, cuts = descend(chart, share, lengths)
        return self.by_part([swap(dp) for _, dp in items], [swap(dp) for _, dp in cuts])

    def trace(self, potentials, context, tape, noise):
        chart, products, lost, lengths = self._read(potentials, context, tape)
        items, _ = descend(chart, Choice(chart, products, lost, noise), lengths)
        return self._event([swap(used) > 0.5 for (used,) in items])

    def _event(self, used):
        """The event, from which spans (B, W, N) of every scored item are used."""
        return self.event(self.by_part([ops.cast(x, "int32") for x in used], []))

    def topk(self, potentials, context, k):
        scores, cuts = self.by_width(potentials)
        chart = Chart(self.spec, scores, cuts)
        cuts = iter(map(swap, cuts))
        cuts = [next(cuts) if p.scored else None for p in self.spec.products]
        items, exists = kbest(chart, [swap(x) for x in scores], cuts, context[0], k)
        events = ops.stack([self._event([swap(item[i]) for item in items]) for i in range(k)])
        shape = (*ops.shape(exists), *([1] * (len(events.shape) - 2)))
        return array.where(ops.reshape(exists, shape), events, -1), exists

    def _read(self, potentials, context, tape):
        """The chart, its products and lost columns, and the lengths, 0 where nothing exists."""
        chart = Chart(self.spec, *self.by_width(potentials))
        pairs = [swap(Scaled(m, e)) for m, e in zip(tape[::2], tape[1::2], strict=True)]
        count = len(self.spec.products)
        products, (lengths,) = pairs[:count], context
        exists = chart.log_partition(products, lengths) > INFEASIBLE
        return chart, products, pairs[count:], array.where(exists, lengths, 0)
