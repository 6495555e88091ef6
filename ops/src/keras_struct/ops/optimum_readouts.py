"""The readouts of a distribution that its best structures make: sparse marginals, implicit MLE."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_struct.ops import autodiff, sparsemap
from keras_struct.ops.annotations import ArrayLike
from keras_struct.ops.implicit_mle import ImplicitMLE


class OptimumReadouts:
    """What `Distribution` inherits; `self` is one."""

    def sparse_marginals(
        self: Any,
        name: str | None = None,
        alpha: float = 2,
        steps: int | None = None,
        return_gap: bool = False,
    ) -> Any:
        """Marginals of few structures (SparseMAP): most parts are exactly 0, many exactly 1.

        With mu the marginals of all potentials theta, costs with a minus, and u those of the
        primary potential, the first one, these are the maximum of

            <theta, mu> - T |u|^2 / 2

        over all mixtures of structures: u is the point of the marginal polytope that is nearest to
        the scores over the temperature T, where only the primary potential scores; the square is
        of the primary potential alone. With `categorical` this is the sparsemax. At
        `temperature=0`, or low ones, it is the best structure.

        An active set finds it by the best structure for other scores, one for each step, and ends
        at the exact point: within rounding, which is some 1e-4 in float32 where dozens of
        structures share the mass. What is left after `steps` is in the gap; where that is above
        0.01, a `RuntimeWarning` says so, not inside a compiled function or on an accelerator. The
        derivative is that of the face of the polytope that was reached; second ones are 0.

        Args:
            name: See `marginals`.
            alpha: 2; or for `categorical` also 1.5, the entmax between softmax and sparsemax.
            steps: The most steps, at least 2; None for 100. As many as structures share the mass,
                and some more: one or two for each position at temperature 1 and scores of variance
                1. Memory has as many structures, and the square of that, for each example.
            return_gap: Whether to return the duality gap, too, (...,): u is off by its square
                root at most, in Euclidean norm. It has no gradient.

        Returns:
            As `marginals`; 0 where no structure exists. Or a pair with the gap.

        Raises:
            ValueError: For another alpha, or steps that are no integer >= 2.

        Example:

        >>> import numpy as np
        >>> from keras_struct import ops
        >>> d = ops.subset(np.array([[2.0, 1.0, 0.9, 0.0]], "float32"), k=2)
        >>> print(np.round(np.array(d.sparse_marginals()), 3))
        [[1.   0.55 0.45 0.  ]]

        Source: Niculae, Martins, Blondel and Cardie (2018), SparseMAP; Wolfe (1976), Finding the
        nearest point in a polytope; Martins and Astudillo (2016), From softmax to sparsemax;
        Peters, Niculae and Martins (2019), Sparse sequence-to-sequence models (entmax).
        """
        closed = self.structure.closed_entmax
        if alpha not in ((1.5, 2) if closed else (2,)):
            raise ValueError(
                "Expected alpha=2, or alpha=1.5 for categorical. "
                f"Received: alpha={alpha} for {self.structure.op}"
            )
        steps = sparsemap.checked(steps)
        gap = None
        if self._hard:
            arrays = autodiff.whole(self, "_all_as_given", self._marginals)
        elif closed:
            arrays = autodiff.whole(self, "_sparsemax" if alpha == 2 else "_entmax15")
        else:
            solution = sparsemap.solved(self, steps)
            arrays, gap = autodiff.whole(self, "_sparsemap", solution), solution.gap
        found = self._chosen(arrays, name)
        if not return_gap:
            return found
        gap = ops.zeros_like(self._max[0][0]) if gap is None else gap
        return found, self._restore(gap)

    def _sparsemax(self: Any):
        return self._placed_as_given(self.structure.entmax(self._scores(), 2))

    def _entmax15(self: Any):
        return self._placed_as_given(self.structure.entmax(self._scores(), 1.5))

    def _sparsemap(self: Any, solution):
        return self._placed_as_given(self._by_name(sparsemap.mixed(self, solution)))

    def implicit_mle(self: Any, step: ArrayLike = 1.0, name: str | None = None) -> Any:
        """The parts of the best structure, with the gradients of implicit maximum likelihood.

        For a loss of these parts mu, the gradient of the potentials theta, over the temperature, is

            (mu(theta) - mu(theta - step dloss / dmu)) / step:

        zeros unless a step against the gradient of the loss finds another best structure. With
        noise in the potentials this is perturb-and-MAP, and both structures see the same noise.

        Args:
            step: Lambda of the paper, a positive number, in units of the potentials over the
                temperature.
            name: See `marginals`.

        Returns:
            As `parts`: indicators in the shape of `marginals`.

        Raises:
            ValueError: For a step that is no positive number.

        Example:

        >>> import numpy as np
        >>> from keras_struct import ops
        >>> d = ops.subset(np.array([[2.0, 1.0, 0.9, 0.0]], "float32"), k=2)
        >>> print(np.array(d.implicit_mle()))
        [[1. 1. 0. 0.]]

        Source: Niepert, Minervini and Franceschi (2021), Implicit MLE: backpropagating through
        discrete exponential family distributions, section 3.
        """
        if not isinstance(step, (int, float)) or not 0 < step < float("inf"):
            raise ValueError(f"Expected a positive number. Received: step={step}")
        scores = autodiff.whole(self, "_score_tuple")
        parts = autodiff.replaced(ImplicitMLE(self._sweeps, float(step)), self, scores)
        return self._chosen(autodiff.whole(self, "_indicators", parts), name)

    def _score_tuple(self: Any):
        return tuple(self._scores().values())

    def _indicators(self: Any, parts):
        return self._placed_as_given(self._by_name(parts))
