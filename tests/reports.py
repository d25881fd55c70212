"""Plans of many shapes, a comparison, and what their reports hold."""

import dataclasses
import json
from functools import cache
from html.parser import HTMLParser

import torch
from torch import nn

import aiq
from aiq.report import html

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>{{ data }}"


def network():
    torch.manual_seed(0)
    middle = [nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), *middle, nn.Flatten(), nn.Linear(16 * 16 * 16, 10)
    ).eval()


def searched(model, inputs, **options):
    settings = {"hw": "epyc_zen4_2vcpu", "runtime": "openvino", "max_drop": 0.002} | options
    return aiq.search(model, example_inputs=inputs, **settings)


@cache
def plan():
    """Return a plan with a frontier; it is searched once for all tests."""
    return searched(network(), torch.randn(8, 3, 16, 16))


def repeated(plan, times):
    """Return a plan of many layers: another one, again and again."""
    replace, tables, own = dataclasses.replace, plan.tables, len(plan.layers)
    starts = [turn * own for turn in range(times)]
    layers = tuple(
        replace(x, name=f"block{i // own}.{x.name}") for i, x in enumerate(plan.layers * times)
    )
    return replace(
        plan,
        layers=layers,
        tables=replace(
            tables,
            seconds=tables.seconds * times,
            bytes=tables.bytes * times,
            drop=tables.drop * times,
            allowed=tables.allowed * times,
            edges=tuple((s + a, s + b) for s in starts for a, b in tables.edges),
            conversions=tuple(
                replace(x, source=s + x.source, target=s + x.target)
                for s in starts
                for x in tables.conversions
            ),
            frontier=tuple(replace(p, formats=p.formats * times) for p in tables.frontier),
        ),
    )


@cache
def plans():
    """Return plans of many shapes by name; they are searched once for all tests."""
    first = plan()
    two = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    roofline = searched(two, torch.randn(4, 64), hw="xeon_2vcpu_roofs", runtime=None)
    data = [(torch.randn(40, 64), torch.arange(40) % 10)]
    walked = aiq.search(
        two, "xeon_2vcpu_roofs", data, method="greedy", formats="fp32,w8a8", max_drop=0.5
    )
    hostile = tuple(
        dataclasses.replace(layer, name=f"{HOSTILE}.{i}", why=HOSTILE)
        for i, layer in enumerate(first.layers)
    )
    images = [(torch.randn(40, 3, 16, 16), torch.arange(40) % 10)]
    cheapest = searched(network(), None, data=images, max_drop=1.0)
    return {
        "plan": first,
        "cheapest": cheapest,
        "sixty layers": repeated(first, 12),
        "one layer": searched(nn.Sequential(nn.Linear(64, 10)), torch.randn(4, 64)),
        "one point": searched(two, torch.randn(4, 64), formats="fp32"),
        "lower bounds": roofline,
        "measured in the loop": walked,
        "bytes": searched(two, torch.randn(4, 64), hw="xeon_2vcpu_roofs", objective="intensity"),
        "old": aiq.Plan.from_json(version_1(first)),
        "hostile": dataclasses.replace(first, model=HOSTILE, layers=hostile),
    }


def version_1(plan):
    """Return a plan as the first version of aiq wrote it."""
    document = json.loads(plan.to_json()) | {"schema": "aiq/plan/v1"}
    del document["tables"], document["workload"]
    document["predicted_loss"] = document.pop("predicted_drop")
    for name in ("budget", "factor"):
        document["proof"][f"loss_{name}"] = document["proof"].pop(f"drop_{name}")
    for layer in document["layers"]:
        layer["loss"] = layer.pop("drop")
    return json.dumps(document)


def comparison(path):
    """Write a comparison of the plan to a file, and return its path."""

    def candidate(name, seconds):
        interval = {"value": seconds, "low": 0.9 * seconds, "high": 1.1 * seconds}
        ratio = {"value": 0.002 / seconds, "low": 0.0019 / seconds, "high": 0.0021 / seconds}
        return {"name": name, "seconds": interval, "speedup": ratio, "verdict": "faster"}

    rows = [
        {"layer": layer.name, "format": layer.format, "predicted": 1e-5, "measured": 2e-5}
        for layer in plan().layers
    ]
    timing = {"timings": [candidate("fp32", 0.002), candidate("plan", 0.0008)]}
    document = {
        "runtime": "openvino",
        "hardware": "epyc_zen4_2vcpu",
        "level": "calibrated",
        "predicted_seconds": {"fp32": 0.002, "plan": 0.001},
        "timing": timing | {"noise": 0.02, "confidence": 0.95},
        "layers": rows,
        "what a later version adds": 1,
    }
    path.write_text(json.dumps(document))
    return path


class Elements(HTMLParser):
    """Collects elements, attributes that name an address, and the text of scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.addresses, self.scripts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in {"src", "href", "srcset", "action", "data"}]

    def handle_data(self, data):
        if self.tags[-1:] == ["script"]:
            self.scripts.append(data)


def shown(plan, comparison=None):
    """Return the data that the report of a plan shows."""
    return json.loads(Elements(html(plan, comparison)).scripts[0])
