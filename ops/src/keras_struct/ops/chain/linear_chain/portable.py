"""Linear chain on every backend (see recurrence.md)."""

from keras_struct.ops.chain.linear_chain.parallel import ParallelSweeps
from keras_struct.ops.chain.linear_chain.sequential import SequentialSweeps


def rejects(call):
    return None


def sweeps(call):
    if call.option("algorithm") == "parallel":
        return ParallelSweeps()
    return SequentialSweeps()
