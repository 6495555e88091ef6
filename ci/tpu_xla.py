"""What XLA schedules on a TPU for `portable`, beside which the docs set the kernels.

    python ci/tpu_xla.py [--chip v5e] [--only WORD] [--readout WORD]

Cycles are the compiler's own estimates for every operation of the compiled program, those in a loop
times its steps. No TPU is needed (group `tpu`), nothing is run.
"""

import argparse
import json
import os
import re

from tpu_compile import COMPILER, TOPOLOGIES

HEAD = re.compile(r"^(?:ENTRY )?%(\S+) \(.*\{$")
ESTIMATE = re.compile(r'"estimated_cycles":"(\d+)"')
CONDITION = re.compile(r"condition=%([\w.\-]+)")
CONSTANT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")
CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


def cycles(text):
    """Estimated cycles of a compiled program."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        head = HEAD.match(line)
        if head:
            name = head[1]
            bodies[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name:
            bodies[name].append(line)

    def of_line(line):
        kind = re.search(r"\s(while|conditional|call)\(", line)
        if not kind:
            found = ESTIMATE.search(line)
            return int(found[1]) if found else 0
        branches = BRANCHES.search(line)
        names = re.findall(r"%([\w.\-]+)", branches[1]) if branches else CALLED.findall(line)
        inner = max((total(x) for x in names), default=0)
        condition = CONDITION.search(line)
        return inner * steps(condition[1]) if condition else inner

    def steps(condition):
        """Of a loop that counts from 0 to a constant, as all loops of `portable` do."""
        (end,) = set(CONSTANT.findall("\n".join(bodies[condition])))
        return int(end)

    def total(computation):
        return sum(map(of_line, bodies[computation]))

    return total(entry)


def programs():
    """By name, shapes and a function of the arrays that makes a distribution."""
    from keras_struct import ops

    def portable(function):
        return lambda *arrays: function(*arrays, implementation="portable")

    return {
        "cky": (((128, 64, 64),), portable(ops.cky)),
        "pcfg": (((16, 32, 32), (128, 28, 16), (16,)), portable(ops.pcfg)),
        "spanning_tree": (((128, 64, 64),), portable(ops.spanning_tree)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chip", choices=TOPOLOGIES, default="v5e")
    parser.add_argument("--only", default="", help="part of the names of programs")
    parser.add_argument("--readout", default="", help="part of the names of readouts")
    arguments = parser.parse_args()
    os.environ.update(COMPILER)
    import jax
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    topology = TOPOLOGIES[arguments.chip]
    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    sharding = SingleDeviceSharding(device)

    def curvature(make, *arrays):
        def loss(*arrays):
            return jax.numpy.sum(make(*arrays).marginals() ** 2)

        return jax.grad(loss)(*arrays)

    def both(make, *arrays):
        d = make(*arrays)
        return d.value(), d.marginals()

    readouts = {
        "value": lambda make, *arrays: make(*arrays).value(),
        "value and marginals": both,
        "value, marginals and curvature": curvature,
        "best": lambda make, *arrays: make(*arrays).argmax(),
        "sample": lambda make, *arrays: make(*arrays).sample(0),
    }
    for name, (shapes, make) in programs().items():
        if arguments.only not in name:
            continue
        arrays = [jax.ShapeDtypeStruct(x, "float32", sharding=sharding) for x in shapes]
        for readout, read in readouts.items():
            if arguments.readout not in readout:
                continue

            def run(*x, make=make, read=read):
                return read(make, *x)

            compiled = jax.jit(run).lower(*arrays).compile()
            found = {"program": name, "readout": readout, "cycles": cycles(compiled.as_text())}
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
