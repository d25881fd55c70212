"""The arguments, results and formats of a program, in memory and in the program's file.

A file is read with a schema, and nothing that it names is imported. Version 1 kept the structure of
the results as PyTorch prints it; tuples, lists and dicts in it are still read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from msgspec import Meta

from aiq.errors import InputError, reason
from aiq.formats import parse
from aiq.runtimes.arguments import Arguments, TensorSpec
from aiq.runtimes.kernels import RealisedKernel
from aiq.runtimes.structure import GAP, Node, Template
from aiq.typed import dump_json, parse_json

METADATA = "aiq"
"""Key of the `Document` in a program's file."""

LIMIT = 64 * 2**20
"""Largest size of a document in bytes."""

_SCHEMA, _OLD_SCHEMA = "aiq/program/v2", "aiq/program/v1"
_WHAT, _ADVICE = "a program that this version of aiq wrote", "export the plan again"
_DTYPES = {str(x): x for x in vars(torch).values() if isinstance(x, torch.dtype)}

Size = Annotated[int, Meta(ge=0, le=2**48)]


@dataclass(frozen=True, slots=True)
class Signature:
    """The arguments and results of a program, and the formats of its plan.

    Attributes
    ----------
    asked
        Layer name -> name of the format in the plan.
    arguments
        Arguments of a call.
    returns
        Structure of the model's outputs, without the tensors.
    """

    asked: Mapping[str, str]
    arguments: Arguments
    returns: Template

    def check(
        self, inputs: Sequence[tuple[tuple[int, ...], object]], outputs: int, file: Path
    ) -> None:
        """Raise `InputError` if the program in `file` has other inputs or outputs.

        Parameters
        ----------
        inputs
            Shape and NumPy dtype of each input of the program.
        outputs
            Number of outputs of the program.
        file
            File that the message names.
        """
        specs = self.arguments.specs
        mine = [(x.shape, torch.empty(0, dtype=x.dtype).numpy().dtype) for x in specs]
        if list(inputs) != mine or outputs != self.returns.count:
            raise InputError(
                f"{file} describes other inputs or outputs than its program has; {_ADVICE}."
            )


@dataclass(frozen=True, slots=True)
class InputDocument:
    """A `TensorSpec`, as a file keeps it."""

    shape: tuple[Size, ...]
    dtype: str
    stride: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """The description of a program in its file.

    Attributes
    ----------
    formats
        Layer name -> name of the format in the plan.
    arguments, inputs
        Structure of ``(args, kwargs)``, and the tensors in it.
    returns
        Structure of the result.
    labels
        Name of a value or node -> layers to which it may belong. Runtimes that read ONNX use it.
    kernels, threads
        Layer name -> kernel, and the number of threads for which the program was compiled. Only
        Inductor has them.
    weights
        Fingerprint of the weights, which OpenVINO keeps in another file; ``None`` in older files
        and in other runtimes.
    """

    formats: dict[str, str]
    arguments: Node
    inputs: tuple[InputDocument, ...]
    returns: Node
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kernels: dict[str, RealisedKernel] = field(default_factory=dict)
    threads: Annotated[int, Meta(ge=1)] | None = None
    weights: str | None = None

    def signature(self) -> Signature:
        """Return the signature that the document describes.

        Raises
        ------
        ValueError
            If the document contradicts itself.
        """
        for name in self.formats.values():
            parse(name)
        specs = tuple(_spec(x) for x in self.inputs)
        template = Template.from_node(self.arguments)
        args, kwargs = template.fill([GAP] * template.count)
        if template.count != len(specs) or set(template.leaves) - {GAP}:
            raise ValueError("arguments and inputs differ")
        if not isinstance(args, tuple) or not isinstance(kwargs, dict):
            raise ValueError("arguments are not a tuple and a dict")  # noqa: TRY004
        return Signature(self.formats, Arguments(template, specs), Template.from_node(self.returns))


def write_document(
    signature: Signature,
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
    kernels: Mapping[str, RealisedKernel] | None = None,
    threads: int | None = None,
    weights: str | None = None,
) -> str:
    """Return a document as text, which `read_document` reads.

    The parameters are those of `Document`.

    Raises
    ------
    InputError
        If the model has an argument or a result that a file cannot describe.
    """
    arguments = signature.arguments
    document = Document(
        formats=dict(signature.asked),
        arguments=arguments.template.to_node(),
        inputs=tuple(InputDocument(x.shape, str(x.dtype), x.stride) for x in arguments.specs),
        returns=signature.returns.to_node(),
        labels={name: tuple(layers) for name, layers in (labels or {}).items()},
        kernels=dict(kernels or {}),
        threads=threads,
        weights=weights,
    )
    return dump_json(document, "a program", _SCHEMA, indent=None)


def read_document(text: str | bytes | None, file: Path) -> tuple[Signature, Document]:
    """Return the signature and the document in `text`, which `write_document` wrote into `file`.

    Raises
    ------
    InputError
        If the text is not a document, or was written by a version that cannot be read.
    """
    if not text or len(text) > LIMIT:
        found = f"holds more than {LIMIT} bytes of metadata" if text else "was not written by aiq"
        raise InputError(f"{file} {found}; give a file that aiq.export wrote.")
    try:
        schema = msgspec.json.decode(text, type=_Head).schema
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        schema = ""
    try:
        if schema == _OLD_SCHEMA:
            old = parse_json(
                text, _Old, file=str(file), what=_WHAT, advice=_ADVICE, schema=_OLD_SCHEMA
            )
            document = old.renewed()
        else:
            document = parse_json(
                text, Document, file=str(file), what=_WHAT, advice=_ADVICE, schema=_SCHEMA
            )
        return document.signature(), document
    except (ValueError, TypeError, RuntimeError, msgspec.MsgspecError) as error:
        if isinstance(error, InputError) and str(file) in str(error):
            raise
        raise InputError(f"{file} is not {_WHAT} ({reason(error)}); {_ADVICE}.") from None


def _spec(found: InputDocument) -> TensorSpec:
    dtype = _DTYPES.get(found.dtype)
    if dtype is None:
        raise ValueError(f"there is no dtype {found.dtype:.30}")
    spec = TensorSpec(found.shape, dtype, found.stride)
    probe = torch.empty_strided(found.shape, found.stride, dtype=dtype, device="meta")
    if spec != TensorSpec.of(probe, keep_layout=True):
        raise ValueError("the elements of an input overlap, or do not lie side by side")
    return spec


class _Head(msgspec.Struct):
    """The part of a document that is read to find its version."""

    schema: str


@dataclass(frozen=True, slots=True)
class _OldStructure:
    """A tree of containers, as ``torch.utils._pytree.treespec_dumps`` writes it."""

    type: str | None
    context: str | None
    children_spec: tuple["_OldStructure", ...]

    def renewed(self) -> Node:
        parts = tuple(part.renewed() for part in self.children_spec)
        match self.type:
            case None if not parts and self.context is None:
                return Node("tensor")
            case "builtins.tuple":
                return Node("tuple", parts=parts)
            case "builtins.list":
                return Node("list", parts=parts)
            case "builtins.dict" | "collections.OrderedDict":
                keys = msgspec.json.decode(self.context or "", type=tuple[str | int, ...])
                return Node("dict", keys=keys, parts=parts)
        raise ValueError(f"its results are in a {self.type!s:.100}")


@dataclass(frozen=True, slots=True)
class _Old:
    """Version 1 of `Document`, without nested arguments and strides."""

    formats: dict[str, str]
    shapes: tuple[tuple[Size, ...], ...]
    dtypes: tuple[str, ...]
    keywords: tuple[str, ...]
    returns: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kernels: dict[str, RealisedKernel] = field(default_factory=dict)
    threads: Annotated[int, Meta(ge=1)] | None = None
    weights: str | None = None

    def renewed(self) -> Document:
        gap = Node("tensor")
        positional = len(self.shapes) - len(self.keywords)
        if positional < 0:
            raise ValueError("it has more keywords than inputs")
        args = Node("tuple", parts=(gap,) * positional)
        kwargs = Node("dict", keys=self.keywords, parts=(gap,) * len(self.keywords))
        inputs = tuple(
            InputDocument(shape, dtype, torch.empty(shape, device="meta").stride())
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        )
        _, structure = msgspec.json.decode(self.returns, type=tuple[int, _OldStructure])
        return Document(
            formats=self.formats,
            arguments=Node("tuple", parts=(args, kwargs)),
            inputs=inputs,
            returns=structure.renewed(),
            labels=self.labels,
            kernels=self.kernels,
            threads=self.threads,
            weights=self.weights,
        )
