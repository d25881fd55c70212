"""From a plan to a program that runs, and from the program to the stopwatch."""

from collections.abc import Iterable
from pathlib import Path

import torch

from aiq import runtimes
from aiq.graph.export import Inputs
from aiq.plan import Plan
from aiq.runtimes import Compiled


def deploy(
    plan: Plan,
    model: torch.nn.Module,
    *,
    example_inputs: Inputs,
    calibration: Iterable[Inputs] = (),
    runtime: str = "inductor",
    emulate: bool = False,
) -> Compiled:
    """Compile `model` so that every layer runs in its planned format.

    Parameters
    ----------
    plan
        What `aiq.search` returned, or `Plan.load` read.
    model
        The module that was searched, in evaluation mode; it is not modified.
    example_inputs
        Arguments of one call; the program is compiled for their shapes.
    calibration
        Batches of inputs like those the plan was searched on: on them the ranges of quantised
        activations and the biases that make up for rounded weights are found again. Needed only
        if a format of the plan quantises activations.
    runtime
        ``inductor`` or another name that `aiq.runtimes.names` lists.
    emulate
        Allow formats that the runtime can only emulate.

    Returns
    -------
    Compiled
        Callable like the model; says which format every layer really runs in.

    Raises
    ------
    RuntimeUnavailableError
        If the runtime is not installed, or has no kernel for a format of the plan.
    InputError
        If the plan names layers that the model lacks, or calibration is needed and not given.
    """
    engine = runtimes.get(runtime)
    return engine.compile(
        model,
        example_inputs,
        plan.formats,
        calibration,
        emulate=emulate,
        batch_dim=plan.batch_dim,
    )


def export(
    plan: Plan,
    model: torch.nn.Module,
    path: str | Path,
    *,
    example_inputs: Inputs,
    calibration: Iterable[Inputs] = (),
    emulate: bool = False,
) -> None:
    """Write `model`, every layer in its planned format, to a file that runs without aiq.

    Parameters
    ----------
    plan, model, example_inputs, calibration, emulate
        As for `deploy`.
    path
        The suffix names the runtime: ``.onnx`` for ONNX Runtime, ``.xml`` for OpenVINO (its weights
        go into a ``.bin`` beside it), ``.pt2`` for PyTorch: an AOTInductor package, a library for
        this kind of processor and the number of threads in force.

    Raises
    ------
    RuntimeUnavailableError
        If the runtime is not installed, or has no kernel for a format of the plan.
    InputError
        If the suffix is another one, the plan names layers that the model lacks, or calibration is
        needed and not given.

    Notes
    -----
    `load` runs the file again. So do, without aiq:

    * ``onnxruntime.InferenceSession(path, disabled_optimizers=["WeightBiasQuantization"])``. That
      optimiser would round float32 weights between two quantised layers, which no plan asked for.
    * ``openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})``. Without
      the hint OpenVINO runs float32 layers in bfloat16 where the processor has it. The file itself
      says that ``DYNAMIC_QUANTIZATION_GROUP_SIZE`` is 0; a program that sets another value lets
      weight-only layers round what they read to eight bits, which their plan was not judged by.
    * ``torch._inductor.aoti_load_package(path)``. It calls its kernels from C++, which at small
      batches is faster than what `deploy` compiles, and takes longer to compile.
    """
    file = Path(path)
    engine = runtimes.for_file(file)
    engine.export(
        model,
        file,
        example_inputs,
        plan.formats,
        calibration,
        emulate=emulate,
        batch_dim=plan.batch_dim,
    )


def load(path: str | Path) -> Compiled:
    """Return the program in a file that `export` wrote.

    A ``.pt2`` file is a native library: load only files that you trust.

    Returns
    -------
    Compiled
        Callable like the model; says which format every layer really runs in. A file names no
        types of yours, so what the model returns as a named tuple comes back as a tuple, and a
        dataclass or another mapping (such as the outputs of ``transformers``) as a dict of its
        fields. Tuples, lists, dicts, numbers, strings and ``None`` come back as they were. The
        program that `deploy` returns keeps the model's own types.

    Raises
    ------
    RuntimeUnavailableError
        If the file's runtime is not installed, or cannot read it.
    InputError
        If there is no such file, or `export` did not write it.
    """
    return runtimes.for_file(Path(path)).load(Path(path))
