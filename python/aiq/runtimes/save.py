"""A quantised model as a file that runs without aiq: ``.onnx``, or OpenVINO's ``.xml``."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from aiq.errors import InputError
from aiq.files import write_atomic
from aiq.formats import Format
from aiq.graph import trace
from aiq.graph.export import Inputs
from aiq.runtimes import base

_RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino"}
FORMATS_KEY = "aiq.formats"
"""Key of the file's metadata: JSON, layer -> format."""


def save(
    model: torch.nn.Module,
    path: str | Path,
    *,
    example_inputs: Inputs,
    formats: Mapping[str, Format],
    calibration: Iterable[Inputs] = (),
    emulate: bool = False,
) -> None:
    """Write `model`, with its layers in their formats, to a file.

    Parameters
    ----------
    model, example_inputs, formats, calibration, emulate
        As for `aiq.runtimes.base.Runtime.compile`.
    path
        ``.onnx`` for ONNX Runtime, or ``.xml`` for OpenVINO (its weights in ``.bin`` beside it).

    Notes
    -----
    ONNX Runtime rounds float32 weights that stand between two quantised layers; open the file with
    ``disabled_optimizers=["WeightBiasQuantization"]`` to run such a plan as it is.

    Raises
    ------
    InputError
        If the suffix is another one, or as `compile` does.
    RuntimeUnavailableError
        If the runtime behind the suffix is not installed or has no kernel for a format.
    """
    path = Path(path)
    if path.suffix not in _RUNTIMES:
        raise InputError(
            f"A model cannot be written as {path.suffix or 'a file without suffix'!r}; "
            "use .onnx or .xml."
        )
    runtime = base.get(_RUNTIMES[path.suffix])
    traced = trace(model, example_inputs)
    resolved = base.resolve(runtime, traced.graph, formats, emulate=emulate)
    described = json.dumps({name: fmt.name for name, fmt in resolved.items()})
    if path.suffix == ".onnx":
        from aiq.runtimes import onnxruntime  # noqa: PLC0415 - an extra

        proto = onnxruntime.convert(traced, example_inputs, resolved, calibration).proto
        proto.metadata_props.add(key=FORMATS_KEY, value=described)
        write_atomic(path, proto.SerializeToString())
        return

    import openvino  # noqa: PLC0415 - an extra

    from aiq.runtimes import openvino as plugin  # noqa: PLC0415

    proto = plugin.convert(traced, example_inputs, resolved, calibration).proto
    program = openvino.Core().read_model(proto.SerializeToString())
    program.set_rt_info(described, FORMATS_KEY)
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(program, Path(folder) / "model.xml", compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            write_atomic(path.with_suffix(suffix), (Path(folder) / f"model{suffix}").read_bytes())
