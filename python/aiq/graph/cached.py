"""Forget tensors without values that functions of a model keep in their caches."""

import contextlib
import sys
from collections.abc import Iterator
from functools import _lru_cache_wrapper

from torch import nn


def forget_results(model: nn.Module) -> None:
    """Empty the caches of functions of the classes of a model, and of the files they are in.

    Whoever traces a model calls it on tensors without values. A function with a cache, such as
    ``functools.lru_cache`` around the positions of an image's patches, would keep the result, and
    return it to later calls of the model, too.

    Parameters
    ----------
    model
        The model that was traced.
    """
    classes = {base for module in model.modules() for base in type(module).__mro__}
    own = {found for found in classes if found.__module__.partition(".")[0] not in _NOT_OWN}
    files = {name: sys.modules[name] for name in {c.__module__ for c in own} & {*sys.modules}}
    for scope in (*own, *files.values()):
        for value in list(vars(scope).values()):
            for function in _inside(value):
                if isinstance(function, _lru_cache_wrapper):
                    function.cache_clear()


_NOT_OWN = {"torch", "builtins", "typing", "abc"}
"""Packages whose caches hold no tensors of a model."""


def _inside(value: object) -> Iterator[object]:
    """Yield a function, or that of a method, and what a decorator keeps for it."""
    function = getattr(value, "__func__", value)
    yield function
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell may be empty
            yield cell.cell_contents
