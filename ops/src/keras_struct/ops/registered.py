"""Our implementations, family by family, in the order in which they are tried."""

from keras_struct.ops.chain.categorical import CategoricalSpec
from keras_struct.ops.chain.categorical.portable import CategoricalPortable
from keras_struct.ops.chain.categorical.reference import CategoricalReference
from keras_struct.ops.dispatch import register_implementation, register_structure
from keras_struct.ops.implementation import BySpec

FAMILIES = {
    "chain": ("categorical",),
}
for family, names in FAMILIES.items():
    for name in names:
        register_structure(name, family)

register_implementation("chain", "portable", BySpec({CategoricalSpec: CategoricalPortable()}))
register_implementation("chain", "reference", BySpec({CategoricalSpec: CategoricalReference()}))
