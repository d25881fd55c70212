"""How each tool chooses the bits of the weights of each layer; see `benches/equal_size.py`.

Each tool runs in a process of its own, since their dependencies exclude each other:

    python benches/equal_size_tools.py TOOL NETWORK FILE

It writes the tool's plans into the file: for each mean number of bits the bits of each layer, and
the CPU seconds from the network in memory to the plan, without imports. PyTorch imports parts of
its exporter when it is first used, so it is used once before. What one scoring gives for all sizes
is counted in each of them. Functions map a network, 512 images with labels, and the mean
numbers of bits to such plans.
"""

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import aiq
from aiq import data, graph, models
from aiq.cost import intensity_table
from aiq.evaluate import Evaluator
from aiq.formats import WeightRounding, parse, parse_all

IMAGES, BATCH = 512, 64
WIDTHS, MEANS = range(2, 9), (2.5, 3.0, 3.5, 4.0)
GREEDY_IMAGES = 64
"""Images on which the paper's greedy search evaluates: all 512 would take hours."""

Images = tuple[Tensor, Tensor]
Bits = Mapping[str, int]


@dataclass(frozen=True)
class Choice:
    """A tool's plan: bits of each layer, and CPU seconds that it took."""

    bits: Bits
    seconds: float


Choices = Mapping[float, Choice]


def images() -> list[Images]:
    """Return the images that every tool gets: the first 512 training images, in batches."""
    batches = data.batches(data.load("fashion_mnist", "train"), BATCH)
    return [pair for pair, _ in zip(batches, range(IMAGES // BATCH), strict=False)]


def weighted(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers with weights, by name."""
    kinds = (nn.Conv2d, nn.Linear)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def mean_bits(network: nn.Module, bits: Bits) -> float:
    """Return the mean number of bits of the weights."""
    sizes = {name: layer.weight.numel() for name, layer in weighted(network).items()}
    return sum(size * bits[name] for name, size in sizes.items()) / sum(sizes.values())


def largest(network: nn.Module, mean: float) -> int:
    """Return the size of the network in aiq's count, with `mean` bits a weight, in bytes."""
    layers = graph.extract(network, torch.zeros(1, 3, 32, 32))
    elements = sum(layer.weight_elements for layer in layers.quantizable)
    return sum(parameter.bytes for parameter in layers.undecided) + int(elements * mean / 8)


def ours(
    network: nn.Module, given: list[Images], means: Sequence[float], rounding: str = "nearest"
) -> Choices:
    """Search for the least drop with aiq, anew for each size."""
    found = {}
    for mean in means:
        size = largest(network, mean)
        started = time.process_time()
        plan = aiq.search(
            network,
            "xeon_2vcpu",
            given,
            objective="accuracy",
            formats=parse_all([f"w{width}a8" for width in WIDTHS]),
            max_size=size,
            runtime=None,
            rounding=rounding,
            cache=False,
            progress=None,
        )
        seconds = time.process_time() - started
        found[mean] = Choice({n: f.weight.bits for n, f in plan.formats.items()}, seconds)
    return found


def modelopt(
    network: nn.Module, given: list[Images], means: Sequence[float], method: str = "gradient"
) -> Choices:
    """Run NVIDIA ModelOpt's ``auto_quantize``, scales of weights by least squares."""
    quantization = importlib.import_module("modelopt.torch.quantization")
    formats = [
        {
            "quant_cfg": [
                {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": width, "axis": 0}},
                {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
            ],
            "algorithm": "mse",
        }
        for width in WIDTHS
    ]
    started = time.process_time()
    _, state = quantization.auto_quantize(
        network,
        constraints={"effective_bits": means[0]},
        quantization_formats=formats,
        module_search_spaces=[
            {
                "module_name_patterns": "*",
                "quantization_formats": formats,
                "allow_no_quant": False,
            }
        ],
        data_loader=given,
        forward_step=lambda model, batch: model(batch[0]),
        loss_func=lambda output, batch: nn.functional.cross_entropy(output, batch[1]),
        num_calib_steps=len(given),
        num_score_steps=len(given),
        method=method,
    )
    scored = time.process_time() - started
    found = {}
    for mean in means:
        started = time.process_time()
        config = quantization.get_auto_quantize_config(state, {"effective_bits": mean})
        entries = {entry["quantizer_name"]: entry for entry in config["quant_cfg"]}
        bits = {n: entries[f"{n}.weight_quantizer"]["cfg"]["num_bits"] for n in weighted(network)}
        found[mean] = Choice(bits, scored + time.process_time() - started)
    return found


def mct(network: nn.Module, given: list[Images], means: Sequence[float]) -> Choices:
    """Run Sony's Model Compression Toolkit with its defaults, which score on 32 of the images."""
    toolkit = importlib.import_module("model_compression_toolkit")
    elements = sum(layer.weight.numel() for layer in weighted(network).values())
    found = {}
    for mean in means:
        started = time.process_time()
        quantised, _ = toolkit.ptq.pytorch_post_training_quantization(
            network,
            lambda: ([x] for x, _ in given),
            target_resource_utilization=toolkit.core.ResourceUtilization(elements * mean / 8),
            core_config=toolkit.core.CoreConfig(
                mixed_precision_config=toolkit.core.MixedPrecisionQuantizationConfig()
            ),
            target_platform_capabilities=mct_platform(),
        )
        seconds = time.process_time() - started
        found[mean] = Choice(dict(mct_bits(network, quantised)), seconds)
    return found


def mct_platform() -> Any:
    """Return capabilities with weights of 2 to 8 bits, and activations of 8."""
    platform = importlib.import_module(
        "model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0.tpc"
    )
    eight, _, default = platform.get_op_quantization_configs()
    every = [
        eight.clone_and_edit(attr_to_edit={"kernel_attr": {"weights_n_bits": width}})
        for width in reversed(WIDTHS)
    ]
    return platform.generate_tpc(default, eight, every, "2 to 8 bits")


def mct_bits(network: nn.Module, quantised: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield layers of the network and their bits; MCT's names have underscores for dots."""
    bits = {
        name.removesuffix("_bn"): module.weights_quantizers["weight"].num_bits
        for name, module in quantised.named_modules()
        if "weight" in getattr(module, "weights_quantizers", {})
    }
    for name in weighted(network):
        yield name, bits[name.replace(".", "_")]


def aimet(network: nn.Module, given: list[Images], means: Sequence[float]) -> Choices:
    """Run AIMET's automatic mixed precision, with its own score on 128 of the images.

    AIMET lowers one group of layers after the other, in the order of their scores; a size's plan is
    the first on this path that is small enough.
    """
    module = importlib.import_module
    simulation, precision = module("aimet_torch.quantsim"), module("aimet_torch.mixed_precision")
    kinds = module("aimet_torch.common.defs").QuantizationDataType
    callbacks = module("aimet_torch.amp.mixed_precision_algo").EvalCallbackFactory
    prepared = module("aimet_torch.model_preparer").prepare_model(network)
    fold = module("aimet_torch.batch_norm_fold").fold_all_batch_norms
    loader = torch.utils.data.DataLoader(torch.cat([x for x, _ in given]), batch_size=BATCH)

    def forward(model: nn.Module, *_: object) -> None:
        with torch.no_grad():
            for x in loader:
                model(x)

    started = time.process_time()
    fold(prepared, [(1, 3, 32, 32)])
    sim = simulation.QuantizationSimModel(
        prepared, given[0][0][:1], default_output_bw=8, default_param_bw=8
    )
    sim.compute_encodings(forward, None)
    candidates = [((8, kinds.int), (width, kinds.int)) for width in reversed(WIDTHS)]
    score = callbacks(loader).sqnr()
    calls = module("aimet_torch.common.defs").CallbackFunc
    with tempfile.TemporaryDirectory() as folder:
        precision.choose_mixed_precision(
            sim,
            given[0][0][:1],
            candidates,
            score,
            calls(lambda *_: 1.0, None),
            None,
            folder,
            clean_start=True,
            forward_pass_callback=calls(forward, None),
            use_all_amp_candidates=True,
        )
        order = json.loads((Path(folder) / ".cache" / "accuracy_list.json").read_text())
    seconds = time.process_time() - started
    return {mean: Choice(aimet_path(network, order, mean), seconds) for mean in means}


def aimet_path(network: nn.Module, order: list[Any], mean: float) -> Bits:
    """Return the first plan on AIMET's path that has at most `mean` bits."""
    names = {name.replace(".", "_"): name for name in weighted(network)}
    bits = dict.fromkeys(weighted(network), 8)
    for group, candidate, *_ in order:
        if mean_bits(network, bits) <= mean:
            break
        width = int(candidate.split("), (")[1].split(",")[0])
        for kind, layer in group:
            if kind == "weight":
                bits[names[layer.replace(".", "_")]] = width
    return bits


def neural_compressor(network: nn.Module, given: list[Images], means: Sequence[float]) -> Choices:
    """Ask Intel Neural Compressor for weights of 2 to 8 bits, chosen for each layer."""
    torch_api = importlib.import_module("neural_compressor.torch.quantization")
    tuning = importlib.import_module("neural_compressor.common.base_tuning")
    config = tuning.TuningConfig(config_set=[torch_api.RTNConfig(bits=[*WIDTHS])])
    quantised = torch_api.autotune(
        network, config, eval_fn=lambda model: -float(model(given[0][0]).square().mean())
    )
    layers = {name for name, m in quantised.named_modules() if "WeightOnly" in type(m).__name__}
    raise RuntimeError(
        f"its searches round {len(layers)} of {len(weighted(network))} layers, in one width for "
        "all: no algorithm of weights below 8 bits takes convolutions"
    )


def greedy(network: nn.Module, given: list[Images], means: Sequence[float]) -> Choices:
    """Run the paper's greedy search from 8 bits; a size's plan is the first that is small enough.

    Every candidate is evaluated in full, on 64 of the images. The objective is the paper's at
    lambda 0.9.
    """
    started = time.process_time()
    x, y = given[0][0][:GREEDY_IMAGES], given[0][1][:GREEDY_IMAGES]
    evaluator = Evaluator(network, [(x, y)], calibration=given)
    formats = parse_all([f"w{width}a8" for width in reversed(WIDTHS)])
    table = intensity_table(evaluator.trace.graph, [parse("fp32"), *formats])
    plan, best = dict.fromkeys(table.layers, formats[0]), float("inf")
    left, found = sorted(means, reverse=True), dict[float, Choice]()
    while left and time.process_time() - started < GREEDY_SECONDS:
        near = [{**plan, n: f} for n in table.layers for f in formats if f != plan[n]]
        drops = [100 * e.drop for e in evaluator.evaluate_many(near)]
        ratios = [table.intensity(p) / table.intensity({}) for p in near]
        values = [0.1 * d - 0.9 * r for d, r in zip(drops, ratios, strict=True)]
        value = min(values)
        if value >= best:
            break
        best, plan = value, near[values.index(value)]
        bits = {n: f.weight.bits for n, f in plan.items()}
        while left and mean_bits(network, bits) <= left[0]:
            found[left.pop(0)] = Choice(bits, time.process_time() - started)
    return found


GREEDY_SECONDS = 240
"""CPU seconds after which the greedy search is stopped."""

TOOLS: Mapping[str, Callable[..., Choices]] = {
    "aiq": ours,
    "aiq, adaptive": partial(ours, rounding=str(WeightRounding.ADAPTIVE)),
    "ModelOpt, gradient": modelopt,
    "ModelOpt, kl_div": partial(modelopt, method="kl_div"),
    "MCT": mct,
    "AIMET": aimet,
    "Neural Compressor": neural_compressor,
    "the paper's greedy": greedy,
}
"""Name of a row -> function that chooses the bits."""

PACKAGES: Mapping[str, str] = {
    "ModelOpt, gradient": "nvidia-modelopt",
    "ModelOpt, kl_div": "nvidia-modelopt",
    "MCT": "model-compression-toolkit",
    "AIMET": "aimet-torch",
    "Neural Compressor": "neural-compressor-pt",
}
"""Name of a row -> the package that it needs."""


def main() -> None:
    """Write the plans of one tool for one network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("network")
    parser.add_argument("file", type=Path)
    parser.add_argument("--bits", type=float, nargs="+", default=MEANS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    if asked.tool in PACKAGES:
        found["version"] = metadata.version(PACKAGES[asked.tool])
    graph.extract(nn.Linear(1, 1), torch.zeros(1, 1))
    try:
        plans = TOOLS[asked.tool](models.load(asked.network).eval(), images(), asked.bits)
        found["plans"] = {str(mean): asdict(choice) for mean, choice in plans.items()}
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    asked.file.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
