"""What an implementation of a structure provides: three sweeps, a trace and the k best."""


class Sweeps:
    """One recurrence at temperature 1 over canonical potentials.

    Subclasses are immutable and hashable (frozen dataclasses): they travel through `jax.jit` and
    custom gradients as static arguments. Every array has the batch axis first; a potential that is
    shared by the batch has size 1 there. All potentials are finite (see `numerics.FORBIDDEN`).
    """

    @property
    def traceable(self):
        """Whether the sweeps run on unknown values, so that a compiler can take them."""
        return True

    @property
    def differentiable(self):
        """Sweeps of the same recurrence that the framework's own autodiff can follow."""
        return self

    def forward(self, potentials, context, op):
        """`(log_partition (B,), tape)`, with `op` "logsumexp" or "max" as local operator.

        The tape is a tuple of arrays, batch axis first.
        """
        raise NotImplementedError

    def backward(self, potentials, context, tape):
        """Marginals of every example, one array per potential; zeros where no structure exists."""
        raise NotImplementedError

    def curvature(self, potentials, context, tape, tangents):
        """Hessian of the log-partition times `tangents` (shaped like the marginals)."""
        raise NotImplementedError

    def trace(self, potentials, context, tape, noise):
        """One event per example, back through the tape: the best predecessor of every cell after
        `noise(shape)` has been added. Zeros on a "max" tape give the best structure, Gumbel noise
        on a "logsumexp" tape an exact sample."""
        raise NotImplementedError

    def topk(self, potentials, context, k):
        """The k best events of every example, best first: `(events (k, B, ...), exists (k, B))`."""
        raise NotImplementedError
