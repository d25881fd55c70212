"""From a plan to a program that runs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from aiq import bars, graph, runtimes
from aiq.data.reading import first_inputs, observed, reiterable, resized
from aiq.errors import GraphError, InputError, RuntimeUnavailableError
from aiq.files import check_target
from aiq.formats import WeightRounding
from aiq.generative.write import check_target_folder, folder_writer
from aiq.graph import Trace
from aiq.graph.export import Inputs
from aiq.plan import InputSpec, Plan
from aiq.plan.channel_plan import NO_KERNELS, ChannelPlan
from aiq.progress import Progress, silent
from aiq.runtimes import Compiled

GGUF, TYPES, FOLDER = ".gguf", ".txt", ""
"""Suffixes of files of llama.cpp, of lists of types, and of folders; decoders alone have these."""

DEFAULT_RUNTIME = "inductor"
"""Runtime of a plan that names none."""


@dataclass(frozen=True, slots=True, eq=False)
class Deployment:
    """A model, ready to be compiled by a plan.

    Attributes
    ----------
    inputs
        Arguments of one call.
    calibration
        Inputs on which the ranges of quantised activations are observed.
    traced
        The exported model.
    """

    inputs: Inputs
    calibration: list[Inputs]
    traced: Trace


def prepare(
    plan: Plan,
    model: torch.nn.Module,
    data: Iterable[Any] | None = None,
    example_inputs: Inputs | None = None,
    calibration: Iterable[Any] | None = None,
) -> Deployment:
    """Return a model that is ready to be compiled, if the plan is for it; see `deploy`.

    Raises
    ------
    InputError
        If the plan is for another model, or for other inputs than those in `data`, or gives the
        channels of a layer different formats.
    """
    _check_kernels(plan)
    batches = None if data is None else reiterable(data)
    inputs = _inputs(plan, batches) if example_inputs is None else example_inputs
    if calibration is not None:
        calibration = reiterable(calibration, "calibration")
    by_data = plan.rounding is not WeightRounding.NEAREST
    rounds = any(fmt.quantizes_weights for fmt in plan.formats.values())
    if by_data and rounds and data is None and calibration is None:
        raise InputError(
            f"The plan's weights are rounded by data ({plan.rounding}), and none was given; give "
            "data like that of the search."
        )
    seen = observed(inputs, plan.batch_dim, batches, calibration)
    try:
        exported = graph.trace(model, inputs, plan.batch_dim)
        traced = replace(exported, rounding=plan.rounding, learned=plan.learned)
    except GraphError as error:
        if example_inputs is not None or plan.workload is None:
            raise
        raise InputError(
            f"The plan was made for {plan.model} with inputs of {plan.workload.inputs}, which this "
            "model does not take; give the model that was searched, or example_inputs."
        ) from error
    if plan.workload is not None:
        plan.workload.check_model(traced.graph, inputs)
    return Deployment(inputs, seen, traced)


def runtime_of(plan: Plan, runtime: str | None) -> str:
    """Return the name of a runtime: `runtime`, or that of the plan if it is ``None``."""
    _check_kernels(plan)
    planned = None if plan.workload is None else plan.workload.runtime
    return runtime or planned or DEFAULT_RUNTIME


def _check_kernels(plan: Plan | ChannelPlan) -> None:
    """Raise `InputError` if the channels of a layer differ in their formats."""
    if isinstance(plan, ChannelPlan):
        raise InputError(NO_KERNELS)


def _inputs(plan: Plan, data: Iterable[Any] | None) -> Inputs:
    """Return inputs like those that the plan was made for, with the values of `data` if given."""
    workload = plan.workload
    if workload is None:
        if data is not None:
            return first_inputs(data)
        raise InputError(
            "The plan was saved by an older version, which kept no inputs; give the arguments of "
            "one call as example_inputs, or data."
        )
    if data is None or plan.batch_dim is None:
        return workload.inputs.example()
    reads = len(list(workload.inputs.tensors()))
    inputs = resized(first_inputs(data, reads), workload.batch, plan.batch_dim)
    found = InputSpec.of(inputs)
    if found != workload.inputs:
        raise InputError(
            f"The data has inputs of {found} and the plan was made for {workload.inputs}; give "
            "data like that of the search, or example_inputs of the shape to compile for."
        )
    return inputs


@bars.shows_progress
def deploy(
    plan: Plan,
    model: torch.nn.Module,
    *,
    data: Iterable[Any] | None = None,
    example_inputs: Inputs | None = None,
    calibration: Iterable[Any] | None = None,
    runtime: str | None = None,
    emulate: bool = False,
    progress: bars.Shown = "bar",
) -> Compiled:
    """Compile `model` so that every layer runs in its planned format.

    Parameters
    ----------
    plan
        The plan, from `aiq.search` or `Plan.load`.
    model
        The module that was searched, in evaluation mode; it is not modified. Its weights may have
        been trained further since; a model of another structure is refused. With a plan that
        `aiq.finetune` returned, give the model that it returned.
    data
        Batches like those the plan was searched on, of ``(inputs, targets)`` or of inputs; inputs
        are a tensor, or a tuple or dict of tensors. On the first 512 samples the ranges of
        quantised activations and the biases that make up for rounded weights are found again.
        Needed only if a format of the plan quantises.
    example_inputs
        Arguments of one call; the program is compiled for their shapes. Default: inputs of the
        shapes that the plan was made for, with the values of `data` if it is given.
    calibration
        Batches as in `data`, all of which are read, in the place of `data`.
    runtime
        A name that `aiq.runtimes.names` lists. Default: the runtime of the plan.
    emulate
        Allow formats that the runtime can only emulate.
    progress
        Called with the stage, the steps done and the steps in all.

    Returns
    -------
    Compiled
        Callable like the model; says which format every layer really runs in.

    Raises
    ------
    RuntimeUnavailableError
        If the runtime is not installed, or has no kernel for a format of the plan.
    InputError
        If the plan is for another model or other inputs, or data is needed and not given.
    """
    engine, report = runtimes.get(runtime_of(plan, runtime)), _reporter(progress)
    report("export the model", 0, 1)
    ready = prepare(plan, model, data, example_inputs, calibration)
    report("export the model", 1, 1)
    report("compile", 0, 1)
    compiled = engine.compiler(
        model,
        ready.inputs,
        ready.calibration,
        emulate=emulate,
        batch_dim=plan.batch_dim,
        traced=ready.traced,
    )
    program = compiled(plan.formats)
    report("compile", 1, 1)
    return program


@bars.shows_progress
def export(
    plan: Plan,
    model: torch.nn.Module,
    path: str | Path,
    *,
    data: Iterable[Any] | None = None,
    example_inputs: Inputs | None = None,
    calibration: Iterable[Any] | None = None,
    emulate: bool = False,
    tokenizer: Any = None,  # noqa: ANN401 - an object of transformers
    runtime: str | None = None,
    progress: bars.Shown = "bar",
) -> None:
    """Write `model`, every layer in its planned format, to a file that runs without aiq.

    A decoder of transformers can also be written to a folder, from which it writes text.

    Parameters
    ----------
    plan, model, data, example_inputs, calibration, emulate, progress
        These are the parameters of `deploy`.
    path
        The suffix names the runtime: ``.onnx`` for ONNX Runtime, ``.xml`` for OpenVINO (its weights
        go into a ``.bin`` beside it), ``.pt2`` for PyTorch: an AOTInductor package, a library for
        this kind of processor and the number of threads in force. A decoder of transformers can be
        written to ``.gguf`` too, for llama.cpp, or as a list of the types of
        its tensors, ``.txt``, for ``llama-quantize --tensor-type-file``. A name without suffix is
        that of a folder, in which OpenVINO or ONNX Runtime finds a decoder with a cache of any
        length.
    tokenizer
        Tokenizer that a ``.gguf`` file or a folder is to hold: an object of transformers, or a
        folder.
    runtime
        ``openvino`` or ``onnxruntime``, for a folder. Default: the runtime of the plan.

    Raises
    ------
    RuntimeUnavailableError
        If the runtime is not installed, or has no kernel for a format of the plan.
    InputError
        If the suffix is another one, the plan is for another model or other inputs, or data is
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

    `aiq.generative.program.Generator` runs a folder. So do, without aiq,
    ``openvino_genai.LLMPipeline(folder, "CPU")`` for OpenVINO, and
    ``transformers.exporters.ExportedModel.from_pretrained(folder)`` for both.
    """
    file, report = Path(path), _reporter(progress)
    where = runtime_of(plan, runtime)
    check_file(file, where)
    report("export the model", 0, 1)
    ready = prepare(plan, model, data, example_inputs, calibration)
    report("export the model", 1, 1)
    report("compile and write", 0, 1)
    if file.suffix in {GGUF, TYPES, FOLDER}:
        seen = ready.calibration or [ready.inputs]
        write = _decoder_writer(file, where)
        write(model, file, plan.formats, ready.traced, seen, tokenizer)
        report("compile and write", 1, 1)
        return
    runtimes.for_file(file).export(
        model,
        file,
        ready.inputs,
        plan.formats,
        ready.calibration,
        emulate=emulate,
        batch_dim=plan.batch_dim,
        traced=ready.traced,
    )
    report("compile and write", 1, 1)


def check_file(path: Path, runtime: str | None = None) -> None:
    """Check, before any work is done, that `export` can write a file or folder of this name.

    Parameters
    ----------
    path
        The file; one without suffix is a folder of a decoder.
    runtime
        The runtime for which a folder is written.

    Raises
    ------
    InputError
        If the suffix names no runtime, or the file cannot be written there.
    RuntimeUnavailableError
        If what writes such files is not installed.
    """
    if path.suffix in {GGUF, TYPES, FOLDER}:
        _decoder_writer(path, runtime)
    else:
        runtimes.for_file(path)
    if path.suffix == FOLDER:
        check_target_folder(path)
    else:
        check_target(path)


def _reporter(progress: bars.Shown) -> Progress:
    return progress if callable(progress) else silent


def _decoder_writer(path: Path, runtime: str | None) -> Callable[..., None]:
    """Return what writes a decoder to a file or folder, if the packages for that are installed."""
    if path.suffix == FOLDER:
        return folder_writer(runtime)
    try:
        from aiq.gguf.tensor_types import write_types  # noqa: PLC0415
        from aiq.gguf.write import write_gguf  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            f"A .gguf file needs the package {error.name}: `pip install 'aiq[llm]'`."
        ) from error
    return write_gguf if path.suffix == GGUF else write_types


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
