"""NumPy has no gradients: the sweeps as they are."""


def run(sweeps, name, *args, static=()):
    return getattr(sweeps, name)(*args, *static)


def forward(sweeps, potentials, context, op):
    return sweeps.forward(potentials, context, op)


def value(sweeps, potentials, context, tape, log_partition):
    return log_partition


def marginals(sweeps, potentials, context, tape):
    return sweeps.backward(potentials, context, tape)


def compiled(sweep, name, *args):
    return getattr(sweep, name)(*args)


def explicit(sweep, inputs, context):
    return sweep.output(inputs, context)
