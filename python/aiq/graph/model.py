"""Check that a model can be traced, and copy it, so that tracing does not change the user's own."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from aiq.errors import GraphError, type_of

_OTHER_FLOATS = {torch.float16, torch.bfloat16, torch.float64}


def check_model(model: object) -> None:
    """Raise `GraphError` if `model` is not a module, or its weights are not finite float32."""
    if not isinstance(model, nn.Module):
        raise GraphError(
            f"The model is {type_of(model)}; pass a torch.nn.Module instance "
            "(a class or a function has to be called or wrapped first)."
        )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            place = f"Module {name!r}" if name else "The model"
            raise GraphError(
                f"{place} is a TorchScript module, which cannot be traced; pass the "
                "torch.nn.Module that it was made from."
            )
    with torch.no_grad():
        _check_tensors(model)


def _check_tensors(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        _check_parameter(name, parameter)
    for name, buffer in model.named_buffers():  # infinity is allowed, as in attention masks
        if not buffer.is_meta and buffer.is_floating_point() and torch.isnan(buffer).any():
            raise GraphError(f"Buffer {name!r} holds NaN values; load a sound checkpoint.")


def _check_parameter(name: str, parameter: Tensor) -> None:
    if is_lazy(parameter):
        raise GraphError(
            f"Parameter {name!r} has no shape yet; run the model once on an example first."
        )
    if parameter.dtype in _OTHER_FLOATS:
        raise GraphError(
            f"Parameter {name!r} is {str(parameter.dtype).removeprefix('torch.')}, and formats are "
            "chosen for a float32 network; pass model.float() and float32 inputs."
        )
    if type(parameter.data) is not Tensor:
        raise GraphError(
            f"Parameter {name!r} is stored as {type(parameter.data).__name__}, and formats are "
            "chosen for a float32 network; pass the model as it was before it was quantised."
        )
    if not parameter.is_meta and not torch.isfinite(parameter).all():
        raise GraphError(
            f"Parameter {name!r} holds NaN or infinite values; "
            "load a sound checkpoint or train again with a smaller learning rate."
        )


@contextmanager
def in_evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Provide a copy of `model` in evaluation mode, with the same tensors.

    Other threads can use the model meanwhile. If it cannot be copied, the model itself is provided,
    and its modes, hooks, parameters and attributes are restored afterwards. Tensors that were made
    in inference mode are copied, since they cannot be exported.
    """
    shared = {
        id(leaf): outside_inference(leaf)
        for module in model.modules()
        for leaf in pytree.tree_leaves(vars(module))
        if isinstance(leaf, Tensor)
    }
    try:
        own = copy.deepcopy(model, shared)
    except Exception:  # noqa: BLE001  (a model may hold a lock, a file, a socket)
        own = model
    before = {module: _attributes(module) for module in model.modules()} if own is model else {}
    try:
        _evaluate(own)
        yield own
    finally:
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)


def outside_inference(tensor: Tensor) -> Tensor:
    """Return `tensor`, or a copy if it is an inference tensor; call it outside inference mode."""
    if not tensor.is_inference():
        return tensor
    plain = tensor.detach().clone()
    return nn.Parameter(plain, requires_grad=False) if isinstance(tensor, nn.Parameter) else plain


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of `module`, with copies of its dictionaries, lists and sets."""
    own = {**vars(module)}
    return {k: copy.copy(v) if isinstance(v, (dict, list, set)) else v for k, v in own.items()}


def _evaluate(model: nn.Module) -> None:
    try:
        model.eval()
    except NotImplementedError:
        for module in model.modules():  # modules that torch.export made refuse eval()
            module.training = False
