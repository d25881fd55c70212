"""The JSON that the page shows: every number and sentence of it is computed here."""

from typing import TYPE_CHECKING, Any

from aiq.errors import InputError
from aiq.formats import REFERENCE
from aiq.formats import parse as parse_format
from aiq.report import drawing, facts, missing
from aiq.report.diagnosis import diagnose
from aiq.report.measured import MeasuredTimes
from aiq.report.scores import Words
from aiq.report.sentence import decoding, described, drop, gain, mix, one_run
from aiq.text import count, duration, joules

if TYPE_CHECKING:  # a plan shows itself through this room
    from aiq.plan import Plan, Prediction
    from aiq.plan.tables import FrontierPoint, PlanTables


def document(plan: "Plan", measured: MeasuredTimes | None) -> dict[str, Any]:
    """Return all that the page shows of a plan.

    Raises
    ------
    InputError
        If another plan was measured, or the plan has no layers.
    """
    if not plan.layers:
        raise InputError("The plan has no layers, so there is nothing to show; search again.")
    if measured is not None:
        measured.check({layer.name: layer.format for layer in plan.layers})
    view = _View(plan, measured)
    names = [layer.name for layer in plan.layers]
    return {
        "title": plan.model,
        "answer": view.answer(),
        "notes": view.notes(),
        "formats": view.formats(),
        "lowerBound": view.lower_bound,
        "dropsKnown": view.drops_known,
        "layers": [view.layer(i, short) for i, short in enumerate(drawing.short(names))],
        "unit": view.unit,
        "run": one_run(plan),
        "budget": view.budget(),
        "points": [
            view.point(p) | {"labelled": bool(p.name) and i not in view.beaten}
            for i, p in enumerate(view.frontier)
        ],
        "slider": view.slider(),
        "chosen": view.chosen,
        "edges": [list(edge) for edge in view.tables.edges] if view.tables else [],
        "conversions": view.conversions(),
        "roofline": view.roofline(),
        "measured": view.compared(),
        "heatNote": "" if view.drops_known else missing.NO_HEAT,
        "timeNote": missing.NOT_TIMED
        if plan.predicted.token_seconds is None
        else missing.TOKENS_NOT_SHOWN,
        "dropUnit": view.words.unit(),
        "table": view.table(),
        "gainHeading": view.gain_heading(),
        "tableNotes": view.table_notes(),
        "facts": [list(row) for row in facts.fact_rows(plan)],
        "commands": facts.commands(plan),
    }


class _View:
    """A plan with its tables, or with what an old plan has instead of them."""

    def __init__(self, plan: "Plan", measured: MeasuredTimes | None) -> None:
        self.plan, self.measured = plan, measured
        self.tables: PlanTables | None = plan.tables
        self.words = Words.of(plan.provenance)
        self.lower_bound = plan.predicted.level != "calibrated"
        used = dict.fromkeys([REFERENCE.name, *(layer.format for layer in plan.layers)])
        self.names = list(used) if self.tables is None else list(self.tables.formats)
        self.frontier: tuple[FrontierPoint, ...] = self.tables.frontier if self.tables else ()
        self.unit = self.tables.unit if self.tables else "seconds"
        # A search that measured only whole plans has zeros instead of the drops of layers.
        self.drops_known = plan.provenance.get("sensitivity", "") is not None
        self.beaten = drawing.beaten((p.name, self.cost(p), p.drop) for p in self.frontier)
        self.places = drawing.places(
            len(plan.layers), self.tables.edges if self.tables else ()
        )  # of the layers in the picture of the graph
        self.chosen = next((i for i, p in enumerate(self.frontier) if p.name == "plan"), -1)

    def answer(self) -> dict[str, Any]:
        """Return the sentence, in parts."""
        plan, found = self.plan, gain(self.plan, self.measured)
        formats = [layer.format for layer in plan.layers]
        main = max(dict.fromkeys(formats), key=formats.count)
        layers = f"{formats.count(main)} of {len(formats)} layers in {described(main)}"
        layers += "" if described(main) == main else f" ({main})"
        return {
            "figure": found.figure,
            "words": found.words,
            "how": found.how,
            "measured": found.measured,
            "drop": drop(plan),
            "dropMeasured": plan.accuracy is not None,
            "decoding": decoding(plan),
            "layers": layers,
            "where": ", ".join(filter(None, [facts.workload(plan), f"profile {plan.hardware}"])),
        }

    def notes(self) -> list[str]:
        """Return what went wrong, and what is missing and why, each in one sentence."""
        found = [f"{line[0].upper()}{line[1:]}." for line in diagnose(self.plan)]
        if self.tables is None:
            found.append(missing.NO_TABLES)
        elif not self.drops_known:
            found.append(missing.CHEAPEST if self.plan.proof.cheapest else missing.NOT_SOLVED)
        elif len({p.formats for p in self.frontier if p.optimal}) <= 1:
            found.append(missing.SINGLE)
        if self.lower_bound:
            found.append(missing.LOWER_BOUND)
        return found

    def formats(self) -> list[dict[str, Any]]:
        """Return name, words and colour of each format."""
        colours = drawing.colours(self.names)
        return [
            {"name": name, "words": described(name), "colour": colour}
            for name, colour in zip(self.names, colours, strict=True)
        ]

    def layer(self, i: int, short: str) -> dict[str, Any]:
        """Return one layer, in all formats where tables are kept."""
        row, tables = self.plan.layers[i], self.tables
        chosen = self.names.index(row.format)
        size = len(self.names)
        found: dict[str, Any] = {
            "name": row.name,
            "short": short,
            "op": row.op,
            "format": chosen,
            "why": row.why,
            "work": f"{count(row.flops)} FLOP, {count(row.weight_elements)} weights",
        }
        if tables is None:
            # what an old plan knows: shares of the cost of float32, and what the format saves
            share: list[float | None] = [None] * size
            share[chosen], share[0] = row.share * (1 - row.saving), row.share
            drops: list[float | None] = [None] * size
            drops[chosen], drops[0] = row.drop, 0.0
            return found | {"cost": share, "drop": drops, "allowed": [0, chosen]}
        cost = tables.seconds if self.unit == "seconds" else tables.bytes
        return found | {
            "cost": list(cost[i]),
            "drop": list(tables.drop[i]) if self.drops_known else [None] * size,
            "allowed": list(tables.allowed[i]),
            "roof": [
                _on_roof(row.flops, *x)
                for x in zip(tables.bytes[i], tables.seconds[i], strict=True)
            ],
            "place": list(self.places[i]),
        }

    def budget(self) -> float | None:
        """Return the accuracy drop that the search allowed."""
        allowed = self.plan.provenance.get("max_drop")
        weighted = self.plan.provenance.get("lam") is not None
        return float(allowed) if isinstance(allowed, int | float) and not weighted else None

    def slider(self) -> list[int]:
        """Return the points that the slider passes, by cost, the plan itself among them.

        They are the frontier; without one, float32 and the uniform precisions.
        """
        points = self.frontier
        chosen = {p.formats for p in points if p.name == "plan"}
        found = [
            i
            for i, p in enumerate(points)
            if p.name == "plan"
            or (p.optimal and p.formats not in chosen)
            or (not self.drops_known and i not in self.beaten)
        ]
        return sorted(found, key=lambda i: (-self.cost(points[i]), points[i].name == "plan"))

    def point(self, p: "FrontierPoint") -> dict[str, Any]:
        """Return a plan on or beside the frontier, with its words."""
        formats = [self.names[k] for k in p.formats]
        return {
            "name": p.name,
            "cost": self.cost(p),
            "drop": p.drop,
            "measured": p.measured_drop,
            "limit": p.drop_limit,
            "optimal": p.optimal,
            "formats": list(p.formats),
            "words": {
                "gain": self.gain(p),
                "time": self.time(p.seconds),
                "drop": self.predicted_drop(p),
                "measured": ""
                if p.measured_drop is None or p.drop_limit is None
                else f"{self.words.dropped} {self.words.drop(p.measured_drop)} measured, "
                f"at most {self.words.drop(p.drop_limit)}",
                "size": f"{count(p.weight_bytes)}B",
                "mix": mix(formats),
            },
        }

    def cost(self, p: "FrontierPoint") -> float:
        """Return what the search minimised."""
        return p.seconds if self.unit == "seconds" else p.bytes

    def predicted_drop(self, p: "FrontierPoint") -> str:
        """Return the predicted drop in words; nothing if what is known of it was measured."""
        if not self.drops_known and p.measured_drop is not None:
            return ""
        known = " predicted" if p.drop is not None else ""
        return f"{self.words.dropped} {self.words.fine(p.drop)}{known}"

    @property
    def in_time(self) -> bool:
        """Whether plans are compared by time: two lower bounds on time are never divided."""
        return self.unit == "seconds" and not self.lower_bound

    def gain_heading(self) -> str:
        """Return what `ratio` is a ratio of."""
        return "speed-up, predicted" if self.in_time else "fewer bytes"

    def ratio(self, now: "FrontierPoint | Prediction") -> str:
        """Return how many times as fast as float32 a plan is, or how many times fewer its bytes."""
        before = self.plan.baseline
        above, below = (before.seconds, now.seconds) if self.in_time else (before.bytes, now.bytes)
        return f"{above / below:.2f}x" if below > 0 else ""

    def gain(self, p: "FrontierPoint") -> str:
        """Return the ratio in words."""
        words = "the speed of float32, predicted" if self.in_time else "fewer bytes than float32"
        return f"{self.ratio(p)} {words}"

    def time(self, seconds: float) -> str:
        """Return a predicted time, marked where it is a lower bound."""
        return ("at least " if self.lower_bound else "") + duration(seconds)

    def conversions(self) -> list[dict[str, Any]]:
        """Return the costs between layers."""
        found = self.tables.conversions if self.tables and self.unit == "seconds" else ()
        return [
            {"source": x.source, "target": x.target, "cost": [list(r) for r in x.seconds]}
            for x in found
        ]

    def roofline(self) -> dict[str, Any] | None:
        """Return the roofs of the machine, in FLOP/s and bytes/s."""
        tables = self.tables
        if tables is None or not tables.peaks_gflops or not tables.memory_gbps:
            return None
        wanted = {parse_format(name).compute.name for name in self.names}
        return {
            "peaks": [[d, g * 1e9] for d, g in tables.peaks_gflops.items() if d in wanted],
            "memory": [[name, g * 1e9] for name, g in tables.memory_gbps.items()],
        }

    def compared(self) -> dict[str, Any] | None:
        """Return prediction beside measurement, of whole networks and layer by layer."""
        found, timed = self.measured, self.plan.shortlist
        if found is None and timed is None:
            return None
        if found is None:
            assert timed is not None
            names = {row.name: row.name for row in timed.plans} | {timed.chosen: "plan"}
            whole: list[list[Any]] = [
                [names[row.name], row.predicted, row.seconds, row.seconds, row.seconds]
                for row in timed.plans
            ]
            words = f"{timed.runtime}, batch {timed.batch}, noise {100 * timed.noise:.1f} %"
        else:
            times = {name: found[name].seconds for name in ("fp32", "plan")}
            whole = [
                [name, found.predicted_seconds[name], t.value, t.low, t.high]
                for name, t in times.items()
            ]
            noise, confidence = 100 * found.timing.noise, 100 * found.timing.confidence
            words = f"{found.runtime}, noise {noise:.1f} %, intervals of {confidence:g} %"
        layers = () if found is None else found.layers
        return {
            "words": words,
            "whole": whole,
            "layers": [
                {
                    "name": x.layer,
                    "format": self.names.index(x.format) if x.format in self.names else -1,
                    "predicted": x.predicted,
                    "measured": x.measured,
                }
                for x in layers
                if x.measured is not None
            ],
            "note": "" if layers else missing.NOT_COMPARED,
        }

    def table(self) -> list[dict[str, Any]]:
        """Return uniform precisions and the plan: a table after HAWQ-V3."""
        rows = [
            self._row(p.name, [self.names[k] for k in p.formats], i, p, self._drop_of(p))
            for i, p in enumerate(self.frontier)
            if p.name and i not in self.beaten
        ]
        if not rows:
            plan, say = self.plan, self.words.drop
            drop = plan.predicted_drop if plan.accuracy is None else plan.accuracy.drop
            formats, fp32 = [x.format for x in plan.layers], [REFERENCE.name] * len(plan.layers)
            rows = [
                self._row("fp32", fp32, -1, plan.baseline, say(0.0)),
                self._row("plan", formats, -1, plan.predicted, say(drop)),
            ]
        # the chosen plan last, after the uniform ones from the most bits to the fewest
        return sorted(rows, key=lambda row: (row["name"] == "plan", -row["operations"]))

    def _drop_of(self, point: "FrontierPoint") -> str:
        if point.measured_drop is not None:
            return f"{self.words.drop(point.measured_drop)} measured"
        return self.words.fine(point.drop)

    def _row(
        self, name: str, formats: list[str], index: int, p: "FrontierPoint | Prediction", drop: str
    ) -> dict[str, Any]:
        operations = self._bit_operations(formats)
        return {
            "name": name,
            "words": mix(formats) if name == "plan" else described(name),
            "point": index,
            "operations": operations,
            "cells": [
                f"{count(p.weight_bytes)}B",
                count(operations),
                self.energy(formats, p.bytes),
                f"{count(p.bytes)}B",
                self.time(p.seconds),
                self.ratio(p),
                drop,
            ],
        }

    def table_notes(self) -> list[str]:
        """Return what the table leaves out, and where energies are from."""
        source = self.tables.energy_source if self.tables else ""
        beaten = [missing.BEATEN.format(len(self.beaten))] if self.beaten else []
        return [*beaten, missing.ENERGY.format(source.rstrip(".")) if source else missing.NO_ENERGY]

    def energy(self, formats: list[str], moved: float) -> str:
        """Return the energy of one batch: of its multiplications and of the bytes that it moves."""
        tables = self.tables
        if tables is None or tables.byte_pj is None:
            return "-"
        picojoules = moved * tables.byte_pj
        for layer, name in zip(self.plan.layers, formats, strict=True):
            dtype = parse_format(name).compute.name
            if dtype not in tables.mac_pj:
                return "-"
            picojoules += layer.flops / 2 * tables.mac_pj[dtype]
        return joules(picojoules / 1e12)

    def _bit_operations(self, formats: list[str]) -> float:
        """Return the BOPs of a plan: multiplications x bits of a weight x bits of an activation."""
        rows = zip(self.plan.layers, formats, strict=True)
        return sum(layer.flops / 2 * drawing.bits(name) for layer, name in rows)


def _on_roof(flops: int, moved: float, seconds: float) -> list[float] | None:
    """Return FLOP/byte and FLOP/s of a layer, or ``None`` if it has no place on a roofline."""
    if not (flops and moved and seconds):
        return None
    return [float(f"{value:.4g}") for value in (flops / moved, flops / seconds)]
