"""A job: a model that is prepared for the compiler of a runtime."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from aiq.errors import GraphError, InputError, type_of
from aiq.formats import Format
from aiq.graph import LayerGraph, Trace
from aiq.graph.export import Inputs
from aiq.runtimes.arguments import Arguments, leaves
from aiq.runtimes.explicit import write_out
from aiq.runtimes.kernels import label
from aiq.runtimes.rewrite import Rewritten, Target, rewrite
from aiq.runtimes.signature import Signature
from aiq.runtimes.verification import ExpectedOutputs, snapshot


@dataclass(frozen=True, slots=True)
class Job:
    """A model that is prepared for a compiler.

    Attributes
    ----------
    model
        The model that was given.
    example_inputs
        Arguments of one call of the model.
    inputs
        The tensors in `example_inputs`, in the order in which the program reads them.
    graph
        Layer graph of the model.
    formats
        Format of every layer.
    rewritten
        Graph of the model in which every layer has its format.
    signature
        Arguments and results of the program.
    writes_inputs
        Whether `model` changes its inputs in place, which programs never do.
    reference
        Outputs that the program has to compute.
    """

    model: torch.nn.Module
    example_inputs: Inputs
    inputs: tuple[torch.Tensor, ...]
    graph: LayerGraph
    formats: Mapping[str, Format]
    rewritten: Rewritten
    signature: Signature
    writes_inputs: bool
    reference: ExpectedOutputs

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        traced: Trace,
        example_inputs: Inputs,
        formats: Mapping[str, Format],
        calibration: Iterable[Inputs],
        *,
        runtime: str,
        target: Target,
        keep_layout: bool,
    ) -> "Job":
        """Prepare `model`, whose trace is `traced`, for a runtime.

        Parameters
        ----------
        model, traced
            The model and its trace.
        example_inputs
            Arguments of one call of the model.
        formats
            Format of every layer.
        calibration
            Batches of inputs; read only if a format quantises.
        runtime, target
            Name of the runtime, and what its kernels expect of a graph.
        keep_layout
            Whether the program reads channels-last images without a copy.

        Raises
        ------
        GraphError
            If the model's outputs are random.
        InputError
            If calibration is needed and missing, or not batches of inputs.
        """
        if traced.random:
            raise GraphError(
                f"The results of {traced.graph.model} are random in evaluation mode, so no program "
                "can be compared with it; leave out its random part, or draw the random numbers "
                "outside and pass them as an input."
            )
        arguments = Arguments.of(example_inputs, keep_layout=keep_layout)
        quantizes = any(fmt.quantizes_weights for fmt in formats.values())
        batches = _batches(calibration) if quantizes else []
        rewritten = rewrite(traced, example_inputs, formats, batches, target)
        inputs = arguments.fit(leaves(example_inputs))
        write_out(rewritten.module, inputs)
        label(rewritten.module.graph, rewritten.heads)
        alike = filter(partial(_alike, inputs), map(leaves, batches))
        return cls(
            model=model,
            example_inputs=example_inputs,
            inputs=inputs,
            graph=traced.graph,
            formats=formats,
            rewritten=rewritten,
            signature=Signature(
                asked={name: fmt.name for name, fmt in formats.items()},
                arguments=arguments,
                returns=rewritten.returns,
            ),
            writes_inputs=traced.writes_inputs,
            reference=ExpectedOutputs(
                runtime,
                formats,
                frozenset(target.packed),
                arguments.fit(next(alike, inputs)),
                snapshot(rewritten.module),
                traced.module,
            ),
        )


def _batches(calibration: Iterable[Inputs]) -> list[Inputs]:
    if isinstance(calibration, torch.Tensor) or not isinstance(calibration, Iterable):
        raise InputError(
            f"The calibration data is {type_of(calibration)}; pass a list of batches of "
            "inputs, each like the example inputs."
        )
    return list(calibration)


def _alike(inputs: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> bool:
    """Whether a program that is compiled for `inputs` also accepts `others`."""
    return [(x.shape, x.dtype) for x in inputs] == [(x.shape, x.dtype) for x in others]
