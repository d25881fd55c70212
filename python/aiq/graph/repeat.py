"""Check that a model computes the same in every call, as a compiled program does.

A trace keeps the numbers, lists and tensors of Python code as they were in one call. The model is
therefore called twice on tensors without values. Both calls must apply the same operators, with the
same arguments, to the inputs of the same call. Updates of parameters and buffers are found in the
graph instead (`aiq.graph.mutation`).
"""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from aiq.errors import GraphError

CALLS = 2
"""Number of calls that are compared."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)

_Origin = tuple[int, frozenset[int]]
"""A hash of the expression that computed a tensor, and the calls whose inputs it depends on."""

_RANDOM = -1
"""Number of the random generator among the calls of an origin."""


def check_repeats(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether outputs are random, because an operator draws random numbers in a run.

    Parameters
    ----------
    model
        The model in evaluation mode. Its calls may change its attributes.
    args, kwargs
        Arguments of one call.

    Raises
    ------
    GraphError
        If outputs depend on random numbers of Python code, or on state from earlier calls.
    """
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    results: list[list[_Origin]] = []
    with contextlib.suppress(Exception):  # some models cannot run on tensors without values
        origins = _Origins()
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            for call in range(CALLS):
                own_args, own_kwargs, state = pytree.tree_map_only(
                    Tensor, lambda tensor: fake.from_tensor(tensor.detach()), (args, kwargs, held)
                )
                origins.begin(call, pytree.tree_leaves((own_args, own_kwargs)), state)
                with origins:
                    returned = torch.func.functional_call(model, state, own_args, own_kwargs)
                results.append([origins.of(leaf) for leaf in pytree.tree_leaves(returned)])
    name = type(model).__name__
    same = all([h for h, _ in one] == [h for h, _ in results[0]] for one in results)
    own = all(calls <= {call, _RANDOM} for call, one in enumerate(results) for _, calls in one)
    if not (same and own):
        raise GraphError(
            f"{name} computes something else in each call, from a number, a list or a tensor that "
            "its Python code keeps or draws; a compiled program keeps no state: pass it in as an "
            "input and return it."
        )
    return any(_RANDOM in calls for one in results for _, calls in one)


class _Origins(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps for every tensor a hash of the expression that computed it."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, _Origin] = {}
        self._alive: list[Tensor] = []  # keeps ids unique

    def begin(self, call: int, inputs: list[Any], state: dict[str, Tensor]) -> None:
        """Keep the origins of a call's inputs, and of the model's parameters and buffers."""
        for index, leaf in enumerate(inputs):
            if isinstance(leaf, Tensor):
                self._note(leaf, (hash(("input", index)), frozenset([call])))
        for name, tensor in state.items():
            self._note(tensor, (hash(("state", name)), frozenset()))

    def of(self, value: object) -> _Origin:
        """Return the origin of a value."""
        if not isinstance(value, Tensor):
            plain = repr(value) if isinstance(value, _PLAIN) else type(value).__name__
            return hash(plain), frozenset()
        if id(value) in self._known:
            return self._known[id(value)]
        known = id(value) if isinstance(value, FakeTensor) else _content(value)
        self._note(value, (hash(known), frozenset()))
        return self._known[id(value)]

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operator
        types: Any,  # noqa: ANN401 - not used
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what the operator returns
        """Run an operator and keep the origins of its results."""
        del types
        kwargs = kwargs or {}
        operands = [self.of(leaf) for leaf in pytree.tree_leaves((args, kwargs))]
        calls = frozenset[int]().union(*(calls for _, calls in operands))
        if _draws(func, args, kwargs):
            calls |= {_RANDOM}
        key = (str(func), *kwargs, *(origin for origin, _ in operands))
        result = func(*args, **kwargs)
        for index, leaf in enumerate(pytree.tree_leaves(result)):
            if isinstance(leaf, Tensor):
                self._note(leaf, (hash((*key, index)), calls))
        return result

    def _note(self, tensor: Tensor, origin: _Origin) -> None:
        self._alive.append(tensor)
        self._known[id(tensor)] = origin


def _content(tensor: Tensor) -> tuple[object, ...]:
    """Return the shape, dtype and bytes of a constant."""
    with _disable_current_modes():
        plain = tensor.detach()
        content = b"" if plain.is_meta else plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    return tuple(tensor.shape), str(tensor.dtype), content


def _draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:  # noqa: ANN401
    """Whether an operator draws random numbers with these arguments."""
    if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
        return False
    names = [argument.name for argument in func._schema.arguments]
    given = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    given |= dict(zip(names, args, strict=False)) | kwargs
    return all(given.get(name, True) for name in ("p", "dropout", "dropout_p", "train", "training"))
