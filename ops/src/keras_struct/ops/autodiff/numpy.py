"""NumPy has no gradients: the sweeps as they are."""


def run(sweeps, name, *args, static=()):
    return getattr(sweeps, name)(*args, *static)


def whole(d, name, *args, keep=()):
    return getattr(d, name)(*args)


def constant(problem):
    return problem


def forward(sweeps, problem, op):
    return sweeps.forward(problem, op)


def value(sweeps, problem, tape, log_partition):
    return log_partition


def marginals(sweeps, problem, tape):
    return sweeps.backward(problem, tape)


def compiled(sweep, name, *args):
    return getattr(sweep, name)(*args)


def explicit(sweep, inputs, context):
    return sweep.output(inputs, context)


def replaced(rule, d, scores):
    return rule.output(d, scores)
