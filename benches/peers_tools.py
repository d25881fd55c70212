"""How aiq and the tools of the runtimes make a program from a network; see `benches/peers.py`.

Every function returns a function of no arguments that runs the program on `Given.x` the fastest way
that its tool offers, and a function from a batch of inputs to the outputs.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
import torch._inductor.config as inductor
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

import aiq
from aiq import runtimes
from aiq.formats import REFERENCE, parse
from aiq.runtimes import Support

CALIBRATION = 300  # NNCF's default number of samples, for all tools
MAX_DROP = 0.01
MEASURED = 4  # plans that a search of aiq times


class Made(NamedTuple):
    """A program on the fixed inputs, and on any batch of that size."""

    call: Callable[[], object]
    outputs: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Given:
    """What a tool gets.

    Attributes
    ----------
    model
        The network, in evaluation mode.
    x
        Inputs of one call.
    calibration
        Single samples: float32, (samples, ...).
    validation
        Images and labels by which accuracy is controlled, one by one; ``None`` without training.
    transformer
        Whether NNCF is told that the network is a transformer.
    hardware
        Name or file of the profile by which aiq searches.
    """

    model: nn.Module
    x: torch.Tensor
    calibration: torch.Tensor
    validation: tuple[torch.Tensor, torch.Tensor] | None
    transformer: bool
    hardware: str

    def batches(self) -> list[torch.Tensor]:
        """Return the calibration samples in whole batches of the size of the program's."""
        size = len(self.x)
        count = -(-len(self.calibration) // size) * size
        samples = self.calibration[torch.arange(count) % len(self.calibration)]
        return list(samples.split(size))


def ours(runtime: str, name: str, given: Given) -> Made:
    """Return a program of aiq: every layer in a format, or in float32 where it has no kernel."""
    engine, fmt = runtimes.get(runtime), parse(name)
    able = {Support.NATIVE, Support.DEQUANT}
    graph = aiq.extract(given.model, given.x)
    formats = {
        layer.name: fmt if engine.support(layer, fmt) in able else REFERENCE
        for layer in graph.quantizable
    }
    program = engine.compile(given.model, given.x, formats, [given.calibration])
    return Made(partial(program, given.x), program)


def planned(runtime: str, given: Given) -> Made:
    """Return the program of the plan that aiq's search finds and times fastest.

    The plan of a trained network loses at most 1 pp on the validation images; with random weights
    there is no accuracy to lose.
    """
    trained = given.validation is not None
    plan = aiq.search(
        given.model,
        given.hardware,
        [given.validation] if trained else None,
        example_inputs=given.x,
        calibration=[given.calibration],
        runtime=runtime,
        sensitivity="auto" if trained else lambda layer, fmt: 0.0,
        max_drop=MAX_DROP,
        measure_top=MEASURED,
        cache=False,
        progress=None,
    )
    engine = runtimes.get(runtime)
    program = engine.compile(given.model, given.x, plan.formats, [given.calibration])
    return Made(partial(program, given.x), program)


def openvino_model(given: Given) -> Any:
    """Return the network as OpenVINO's converter makes it, for one sample."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the converter does not know its operator
    try:
        with torch.no_grad():
            model = openvino.convert_model(given.model, example_input=given.x[:1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    model.reshape([1, *given.x.shape[1:]])
    return model


def openvino_program(model: Any, given: Given, **settings: object) -> Made:
    """Compile for the batch; a call runs a request whose inputs are bound once."""
    model.reshape(list(given.x.shape))
    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", **settings}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    bound = openvino.Tensor(given.x.numpy().copy())
    request.set_input_tensor(0, bound)

    def outputs(x: torch.Tensor) -> torch.Tensor:
        found = torch.from_numpy(request.infer([x.numpy()])[0])
        request.set_input_tensor(0, bound)
        return found

    return Made(request.infer, outputs)


def openvino_default(given: Given) -> Made:
    """Return the network as OpenVINO runs it by default, in bfloat16 where the processor has it."""
    return openvino_program(openvino_model(given), given)


def nncf(given: Given) -> Made:
    """Return the program of NNCF's ``quantize`` with default options."""
    import nncf  # noqa: PLC0415 - it may be missing

    kind = nncf.ModelType.TRANSFORMER if given.transformer else None
    data = nncf.Dataset([x.numpy() for x in given.calibration.split(1)])
    found = nncf.quantize(
        openvino_model(given), data, model_type=kind, subset_size=len(given.calibration)
    )
    return openvino_program(found, given)


def nncf_controlled(given: Given) -> Made:
    """Return the program of NNCF's ``quantize_with_accuracy_control`` within 1 pp."""
    import nncf  # noqa: PLC0415 - it may be missing

    assert given.validation is not None
    images, labels = given.validation
    pairs = [(x.numpy(), int(y)) for x, y in zip(images.split(1), labels, strict=True)]

    def accuracy(compiled: Any, items: Iterable[tuple[Any, int]]) -> float:
        request = compiled.create_infer_request()
        right = [int(request.infer([x])[0].argmax()) == y for x, y in items]
        return float(np.mean(right))

    found = nncf.quantize_with_accuracy_control(
        openvino_model(given),
        calibration_dataset=nncf.Dataset([x.numpy() for x in given.calibration.split(1)]),
        validation_dataset=nncf.Dataset(pairs),
        validation_fn=accuracy,
        max_drop=MAX_DROP,
        subset_size=len(given.calibration),
    )
    return openvino_program(found, given)


def onnx_file(given: Given, path: Path) -> None:
    """Write the network as PyTorch's exporter makes it."""
    with torch.no_grad():
        torch.onnx.export(
            given.model, (given.x,), str(path), dynamo=True, external_data=False, verbose=False
        )


def onnx_program(path: Path, given: Given) -> Made:
    """Open a file in ONNX Runtime with its default optimisations and one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    feed = {entry.name: given.x.numpy()}

    def outputs(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {entry.name: x.numpy()})[0])

    return Made(partial(session.run, None, feed), outputs)


def onnx_default(given: Given) -> Made:
    """Return the network as ONNX Runtime runs it by default."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float32.onnx"
        onnx_file(given, path)
        return onnx_program(path, given)


def quantize_static(given: Given) -> Made:
    """Return the program of ``quantize_static``: QDQ, uint8, weights in int8 by channel."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self._feeds: Iterator[dict[str, Any]] = iter(
                [{name: x.numpy()} for x in given.batches()]
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        exact, ready, found = (Path(folder) / f"{n}.onnx" for n in ("exact", "ready", "found"))
        onnx_file(given, exact)
        quant_pre_process(str(exact), str(ready))
        name = onnx.load(ready).graph.input[0].name
        quantization.quantize_static(
            str(ready),
            str(found),
            Reader(name),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx_program(found, given)


def compiled(module: Any, given: Given) -> Made:
    """Compile a module by Inductor with frozen weights."""
    inductor.freezing = True
    program = torch.compile(module)

    def outputs(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = program(x)
            return found

    outputs(given.x)
    return Made(partial(outputs, given.x), outputs)


def inductor_default(given: Given) -> Made:
    """Return the network as ``torch.compile`` runs it with frozen weights."""
    return compiled(given.model, given)


def pt2e(given: Given) -> Made:
    """Return the program of torchao's PT2E with the quantiser for Inductor on x86."""
    with torch.no_grad():
        exported = torch.export.export(own_modules(given.model), (given.x,)).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(exported, quantizer)
        for x in given.batches():
            prepared(x)
        found = convert_pt2e(prepared)
    move_exported_model_to_eval(found)
    return compiled(found, given)


def own_modules(model: nn.Module) -> nn.Module:
    """Return a copy in which every call of a shared ReLU is one of a function.

    PT2E fails on a module that is called twice.
    """

    class Relu(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)

    found = deepcopy(model)
    for parent in list(found.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, Relu())
    return found


TOOLS: Mapping[str, Mapping[str, Callable[[Given], Made]]] = {
    "openvino": {
        "aiq": partial(ours, "openvino", "w8a8"),
        "aiq plan": partial(planned, "openvino"),
        "nncf": nncf,
        "nncf, accuracy control": nncf_controlled,
        "default": openvino_default,
        "aiq w8a8bf16": partial(ours, "openvino", "w8a8bf16"),
        "aiq bf16": partial(ours, "openvino", "bf16"),
        "aiq fp32": partial(ours, "openvino", "fp32"),
    },
    "onnxruntime": {
        "aiq": partial(ours, "onnxruntime", "w8a8"),
        "aiq plan": partial(planned, "onnxruntime"),
        "quantize_static": quantize_static,
        "default": onnx_default,
        "aiq fp32": partial(ours, "onnxruntime", "fp32"),
    },
    "inductor": {
        "aiq": partial(ours, "inductor", "w8a8"),
        "aiq plan": partial(planned, "inductor"),
        "pt2e": pt2e,
        "default": inductor_default,
        "aiq bf16": partial(ours, "inductor", "bf16"),
        "aiq fp32": partial(ours, "inductor", "fp32"),
    },
}
"""Runtime -> name of a candidate -> function that makes its program."""

CONTROLLED = "nncf, accuracy control"
"""Candidate that exists for trained networks only."""
