"""Trace, search, deploy in w8a8 and compare every network in every runtime.

    python benches/deployments.py                       # all rows; goes on where it was stopped
    python benches/deployments.py --only resnet18 bert  # rows whose names contain one of these
    python benches/deployments.py --again               # also the rows that are done already

For each network of `benches/zoo.py` and each runtime, ``aiq.search`` chooses int8 or, if the
runtime has no integer kernel for a layer, float32; it uses no data. Then ``aiq.deploy`` compiles
the plan. `benches/deployments_report.py` says when a deployment is good. That means something only
if a network does not turn every rounding error into noise, so `benches/zoo.py` shifts the batch
norms of Inception, the one network that does with random weights.

``benches/results/deployments.json`` is written after every network. Nothing is timed, and every
network has one thread.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import common
import torch
import zoo
from deployments_report import RUNTIMES, markdown, summary
from torch.utils import _pytree as pytree

import aiq
from aiq import sensitivity
from aiq.drops import DropTable
from aiq.formats import parse, parse_all
from aiq.graph import Trace
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.runtimes import instructions

SEED = 0
FORMATS = "w8a8"
ROWS = 8  # networks that one process does
DEPTH = 3  # network, "runtimes" and runtime lead to a row


def main() -> None:
    """Compute the rows that are missing, and print the table."""
    options = arguments()
    if options.rows:
        torch.set_num_threads(1)
        for name in options.rows:
            print(json.dumps(row(name, options.hw, options.runtime)), flush=True)
        return
    done: dict[str, Any] = common.earlier("deployments")
    chosen = [n for n in zoo.NETWORKS if any(part in n for part in options.only)]
    missing = [
        n
        for n in chosen
        if options.again or not {*options.runtime} <= {*done.get(n, {}).get("runtimes", {})}
    ]
    published = common.published("deployments").get("rows")
    for name, found in in_processes(missing, options.hw, options.runtime):
        done = common.joined(done, {name: found}, DEPTH)
        rows = common.joined(published, done, DEPTH)
        common.save("deployments", {"hw": options.hw, "rows": rows}, [SEED], done)
        print(markdown({name: done[name]}).splitlines()[-1], flush=True)
    print(markdown({name: done[name] for name in chosen}))
    print(summary({name: done[name] for name in chosen}))


def in_processes(
    names: Sequence[str], hw: str, engines: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield networks and their rows; a process does `ROWS` of them, which bounds its memory."""
    left = list(names)
    while left:
        some = left[:ROWS]
        command = [sys.executable, __file__, "--hw", hw, "--runtime", *engines, "--rows", *some]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                if line.startswith("{"):
                    yield left.pop(0), json.loads(line)
                    some = some[1:]
        if some:  # the process died while it did the first of them
            failure = f"the process ended with {worker.returncode}"
            yield left.pop(0), {"runtimes": {r: {"failure": failure} for r in engines}}


def row(name: str, hw: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the row of one network: its deployment in each runtime."""
    model, inputs = zoo.build(name, SEED)
    try:
        traced = aiq.graph.trace(model, inputs)
        folded = fold(traced)
        simulator = Simulator(folded, observe(folded, [inputs]))
        formats = parse_all(["fp32", FORMATS])
        drops = sensitivity.estimate(traced, formats, "sqnr", inputs, seed=SEED)
    except Exception as error:  # noqa: BLE001 - the table shows any error
        return {"runtimes": {r: {"failure": common.said(error)} for r in names}}
    found = {}
    for runtime in names:
        started = time.perf_counter()
        try:
            found[runtime] = cell(model, inputs, traced, simulator, drops, hw, runtime)
        except Exception as error:  # noqa: BLE001 - the table shows any error
            found[runtime] = {"failure": common.said(error)}
        found[runtime]["seconds"] = round(time.perf_counter() - started, 1)
        torch.compiler.reset()
    return {"layers": len(traced.graph.quantizable), "runtimes": found}


def cell(
    model: torch.nn.Module,
    inputs: zoo.Inputs,
    traced: Trace,
    simulator: Simulator,
    drops: DropTable,
    hw: str,
    runtime: str,
) -> dict[str, Any]:
    """Return the deployment of a network in one runtime."""
    plan = aiq.search(
        model,
        hw,
        example_inputs=inputs,
        formats=FORMATS,
        max_drop=1.0,
        runtime=runtime,
        sensitivity=drops,
    )
    program = aiq.deploy(plan, model, example_inputs=inputs, calibration=[inputs], runtime=runtime)
    exact = call(model, inputs)
    bits = instructions.weight_bits()
    formats = {layer.name: parse(layer.format).held_to(bits) for layer in plan.layers}
    ops = {layer.name: layer.op for layer in traced.graph.quantizable}
    return {
        "int8": sum(layer.format == FORMATS for layer in plan.layers),
        "mismatches": [f"{m.layer} ({ops[m.layer]}): {m.realised}" for m in program.mismatches],
        "error": difference(call(program, inputs), exact),
        "simulated": difference(simulator.run(inputs, formats), exact),
    }


def call(function: Any, inputs: zoo.Inputs) -> object:
    """Call a model or a program."""
    with torch.no_grad():
        return function(**inputs) if isinstance(inputs, dict) else function(*inputs)


def difference(found: object, exact: object) -> float:
    """Return the relative error of all outputs, as `benches/deployments_report.py` defines it."""
    one, other = (
        torch.cat([x.flatten().double() for x in pytree.tree_leaves(value)])
        for value in (found, exact)
    )
    return float((one - other).norm() / (other - other.mean()).norm())


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", default=[""], help="parts of names of networks")
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--hw", default="epyc_zen4_2vcpu", help="profile that prices the plans")
    parser.add_argument("--again", action="store_true", help="do rows that were done")
    parser.add_argument("--rows", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
