"""Every structure on the lattice, on every backend: one program for all specs (recurrence.md)."""

from keras_struct.ops.alignment.jumps import JumpSweeps
from keras_struct.ops.alignment.wavefront import WavefrontSweeps


def rejects(call):
    return None


def sweeps(call):
    spec = call.option("spec")
    return JumpSweeps(spec) if spec.jumps else WavefrontSweeps(spec)
