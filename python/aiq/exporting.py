"""Run one export at a time, without output, as PyTorch's exporters change global state.

The warnings, logs and output of other threads are not affected. Two lists of operators that PyTorch
makes anew in every export are kept, which takes most of the time off exports of small models.
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, cast
from unittest.mock import patch

import torch
import torch._export.utils

_LOCK = threading.RLock()
_SILENT = threading.local()
_NAMED = set[str]()  # operators that PyTorch has made attributes of torch.ops
_name_all = getattr(torch._export.utils, "_materialize_cpp_cia_ops", lambda: None)


@contextmanager
def exporting() -> Iterator[None]:
    """Let only this thread export or compile, without gradients, warnings or logs.

    Every ``torch.export``, ``torch.onnx.export`` and compilation of aiq runs in this context, since
    two at the same time would see each other's patches of ``torch.nn.Module``.
    """
    named = patch.object(
        torch._export.utils, "_materialize_cpp_cia_ops", _name_new_operators, create=True
    )
    with _LOCK, named, _silence(), torch.inference_mode(mode=False), torch.no_grad():
        yield


@contextmanager
def exporting_onnx() -> Iterator[None]:
    """Be in `exporting`, with translations of operators to ONNX that are made only once."""
    from torch.onnx._internal.exporter._registration import (  # noqa: PLC0415 - takes a second
        ONNXRegistry,
    )

    with exporting(), patch.object(ONNXRegistry, "from_torchlib", _translations()):
        yield


@cache
def _translations() -> "staticmethod[..., Any]":
    """Return ``ONNXRegistry.from_torchlib`` with a memory; exporters only read what it returns."""
    from torch.onnx._internal.exporter._registration import (  # noqa: PLC0415 - takes a second
        ONNXRegistry,
    )

    return staticmethod(cache(ONNXRegistry.from_torchlib))


def _name_new_operators() -> None:
    """Make the operators of C++ attributes of ``torch.ops`` if there are any new ones.

    PyTorch does so about 40 times an export for the same thousand operators.
    """
    found = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
    if set(found) != _NAMED:
        _name_all()
        _NAMED.clear()
        _NAMED.update(found)


@contextmanager
def _silence() -> Iterator[None]:
    """Drop the warnings, logs and partial graphs that PyTorch writes in this thread."""
    from torch.export import _trace  # noqa: PLC0415 - takes a second, which workers need not spend

    if getattr(_SILENT, "here", False):
        yield
        return
    handlers = _handlers()
    # A filter's pattern is anything with `match`: this one matches by the thread, not the text.
    ignore: Any = ("ignore", _ThisThread(), Warning, None, 0)
    filters = cast(list[Any], warnings.filters)
    _SILENT.here = True
    try:
        with patch.object(_trace, "print", _print, create=True):
            for handler in handlers:  # with new lists, as other threads may be reading the old
                handler.filters = [*handler.filters, _speaks]
            filters.insert(0, ignore)
            yield
    finally:
        _SILENT.here = False
        with suppress(ValueError):  # another thread may have reset its filters
            filters.remove(ignore)
        for handler in handlers:
            handler.filters = [entry for entry in handler.filters if entry is not _speaks]


class _ThisThread:
    """A warning's pattern that matches in the silent thread."""

    def match(self, text: str) -> bool:
        """Return whether the warning is to be ignored."""
        del text
        return not _speaks()


def _speaks(record: logging.LogRecord | None = None) -> bool:
    """Whether the logs and warnings of this thread are to be shown."""
    del record
    return not getattr(_SILENT, "here", False)


def _print(*values: object, **options: Any) -> None:  # noqa: ANN401 - as print's
    """Print unless this thread is silent: torch.export prints the graph that it failed on."""
    if _speaks():
        print(*values, **options)


def _handlers() -> list[logging.Handler]:
    """Return all handlers of all loggers."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = [h for logger in loggers if isinstance(logger, logging.Logger) for h in logger.handlers]
    last = [] if logging.lastResort is None else [logging.lastResort]
    return list(dict.fromkeys([*found, *last]))
