from ci.lowest_versions import lowest, requirements
from packaging.requirements import Requirement


def test_the_highest_of_the_lowest_counts():
    lines = ["keras>=3.10", "keras>=3.14", "numpy", "jax>=0.10,<1", "keras-struct-ops~=0.1.0"]
    found = lowest(map(Requirement, lines))
    assert {name: str(version) for name, version in found.items()} == {
        "keras": "3.14",
        "jax": "0.10",
        "jaxlib": "0.10",
    }


def test_every_backend_has_a_lowest_version():
    assert {"keras", "jax", "jaxlib", "tensorflow", "torch"} <= set(lowest(requirements()))
