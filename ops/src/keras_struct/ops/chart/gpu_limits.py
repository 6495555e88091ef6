"""Which calls the kernels of charts on a GPU take, whatever they are written in."""

from keras_struct.ops.implementation import Drawing

MOST_POSITIONS = 8192  # places of numbers in the tables of a sentence have 32 bits


class WholeCharts(Drawing):
    """An implementation that works on the whole chart of a sentence."""

    def rejects(self, call):
        reason = super().rejects(call)
        if reason is not None:
            return reason
        if any(product.scored for product in call.spec.chart.products):
            return "it has no scores of splits"
        if call.shapes[0][1] > MOST_POSITIONS:
            return f"it numbers the spans of {MOST_POSITIONS:,} positions at most"
        return None
