"""Named cases of the projective trees: those of the spanning trees."""

import dataclasses
import functools

from keras_struct.ops.chart.eisner import eisner
from keras_struct.ops.spanning_tree import cases


def _build(potentials, **options):
    return eisner(**potentials, **options)


CASES = [
    dataclasses.replace(
        case,
        build=functools.partial(_build, **case.build.keywords),
        core=case.name == "ragged",  # labels and masks are the same code as there
    )
    for case in cases.CASES
]
