"""How the error of a calibration depends on its length, and on each assumption of the fit.

    python benches/calibration.py --hw epyc_zen3_2vcpu --runtime openvino onnxruntime
    python benches/calibration.py --runtime onnxruntime     # calibrate first: some eight minutes

A calibration times its programs in a fixed order, so its first programs are those of a shorter
calibration. The model is fitted to the first programs only, and to all programs with one change: an
assumption of `aiq.calibrate.fit.Prior`, no times of the profiler, no times between layers, or no
anchor. For each fit the table has the error on synthetic programs that were left out, by which the
assumptions were chosen. Beside it stands the error on the networks and plans that
`benches/prediction.py` timed on this machine, if there are any.

The samples are those that ``aiq calibrate`` keeps in the user's cache; with ``--hw`` nothing is
timed. The results are in ``benches/results/calibration/<profile>.json``.
"""

import argparse
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median
from types import MappingProxyType

import common
from common import console
from prediction import predicted, profile
from prediction_report import LEVELS, Row, Statistics, fill, of_mixed, of_networks, over_all

from aiq import calibrate, machine, runtimes
from aiq.calibrate.fit import PRIOR, Prior
from aiq.calibrate.programs import REST
from aiq.calibrate.samples import Sample, Store
from aiq.hardware import Hardware
from aiq.hardware.runtime_profile import RuntimeProfile

NONE = 1e-3  # standard deviation that fixes a coefficient at its prior
CALIBRATED = LEVELS[-1]


@dataclass(frozen=True)
class Variant:
    """Samples and assumptions of one fit."""

    name: str
    samples: Collection[Sample]
    prior: Prior = PRIOR


def main() -> None:
    options = arguments()
    hardware = profile(options)
    name = f"calibration/{hardware.name}"
    with machine.threads(hardware.threads):  # as `benches/prediction.py` does
        found = common.earlier(name)
        rows = common.earlier(f"prediction/{hardware.name}")
        for runtime in options.runtime:
            mine = {key: row for key, row in rows.items() if key.split("/")[2] == runtime}
            engine = runtimes.get(runtime)
            store = calibrate.open_store(engine)
            if not store.samples:
                raise SystemExit(
                    f"no samples of {runtime} on this machine; run `aiq calibrate --runtime "
                    f"{runtime}` first."
                )
            found[runtime] = {}
            for variant in variants(store, options.programs):
                with console.status(f"{runtime}: {variant.name}"):
                    section = calibrate.fitted(
                        engine, variant.samples, store.noise, hardware, variant.prior
                    )
                    found[runtime][variant.name] = said(section, hardware, mine)
                console.print(variant.name, found[runtime][variant.name])
            fits = common.joined(common.published(name).get("runtimes"), found, 2)
            summary = {"description": hardware.description, "runtimes": fits}
            common.save(name, summary, [], found)
            console.print(fill(f"{runtime}: errors", found[runtime]))


def variants(store: Store, counts: Collection[int]) -> Iterator[Variant]:
    """Yield the variants of the fit; the first is the calibration as it is."""
    every = tuple(store.samples.values())
    order = list(dict.fromkeys(sample.program for sample in every))
    yield Variant("as it is", every)
    for count in counts:
        if count < len(order):
            first = set(order[:count])
            yield Variant(f"first {count} programs", [s for s in every if s.program in first])
    yield Variant("no layers by profiler", [s for s in every if s.is_whole])
    yield Variant("nothing between layers", [s for s in every if not s.name.endswith(f"#{REST}")])
    usual = median(s.anchor for s in every)
    yield Variant("no anchor", [replace(s, anchor=usual) for s in every])
    for change, prior in (
        ("no corrections for shape", replace(PRIOR, slope=NONE)),
        ("layers count like programs", replace(PRIOR, layer_error=PRIOR.program_error)),
        ("program error 5 %", replace(PRIOR, program_error=0.05)),
        ("shares of the roofs open", replace(PRIOR, coefficients=(1.5, 1.5, 1.5, 1.5))),
    ):
        yield Variant(change, every, prior)


def said(section: RuntimeProfile, hardware: Hardware, rows: Mapping[str, Row]) -> Statistics:
    """Return the errors on programs left out, and on the networks and plans that were timed."""
    assert section.fit is not None
    result: Statistics = {"programs": section.fit.samples, "left out": section.fit.mape}
    sections = MappingProxyType({**hardware.runtimes, section.name: section})
    calibrated = replace(hardware, runtimes=sections)
    again = {key: {**row, **predicted(key, row, calibrated)} for key, row in rows.items()}
    for key, networks in of_networks(again).items():
        if key.endswith(CALIBRATED):
            result |= {"networks": networks["MAPE"], "networks, median": networks["median"]}
    plans = [found for key, found in of_mixed(again).items() if key.endswith(CALIBRATED)]
    if plans:
        whole = over_all(plans)
        result |= {"plans": whole["MAPE"]}
        result |= {name: whole[name] for name in ("sign", "Spearman", "regret")}
    return result


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--hw", help="profile of this machine; calibrate it without one")
    parser.add_argument("--threads", type=int, help="threads to calibrate with; all by default")
    names = [name for name in runtimes.available() if name != "eager"]
    parser.add_argument("--runtime", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--programs", nargs="*", type=int, default=[36, 72, 144, 228, 360], help="first so many"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
