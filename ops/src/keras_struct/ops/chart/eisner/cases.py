"""Named cases of the projective trees: those of the spanning trees."""

import dataclasses
import functools

from keras_struct.ops.chart.eisner import eisner
from keras_struct.ops.dependency.spanning_tree import cases


def _build(potentials, lengths, single_root, **options):
    return eisner(**potentials, lengths=lengths, single_root=single_root, **options)


CASES = [
    dataclasses.replace(
        case,
        build=functools.partial(_build, **case.build.keywords),
        core=case.name == "ragged",  # labels are the same code as there
    )
    for case in cases.CASES
]
