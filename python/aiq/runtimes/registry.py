"""The list of all runtimes, installed or not."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from aiq.errors import InputError, RuntimeUnavailableError
from aiq.names import advice
from aiq.runtimes.base import Runtime


class _Entry(NamedTuple):
    path: str
    suffix: str = ""
    needs: tuple[str, ...] = ()
    extra: str = ""


_RUNTIMES = {
    "eager": _Entry("aiq.runtimes.eager:Eager"),
    "inductor": _Entry("aiq.runtimes.inductor:Inductor", ".pt2"),
    "onnxruntime": _Entry(
        "aiq.runtimes.onnxruntime:OnnxRuntime",
        ".onnx",
        ("onnx", "onnxruntime", "onnxscript"),
        "onnx",
    ),
    "openvino": _Entry(
        "aiq.runtimes.openvino:OpenVino", ".xml", ("onnx", "onnxscript", "openvino"), "openvino"
    ),
}


def names() -> tuple[str, ...]:
    """Return the names of all runtimes, installed or not."""
    return tuple(_RUNTIMES)


def available() -> tuple[str, ...]:
    """Return the names of the runtimes that are installed and can run on this machine."""
    found = []
    for name in _RUNTIMES:
        try:
            get(name)
        except RuntimeUnavailableError:
            continue
        found.append(name)
    return tuple(found)


def get(name: str) -> Runtime:
    """Return the runtime with the given name.

    Raises
    ------
    RuntimeUnavailableError
        If there is no such runtime, or a package that it needs is not installed.
    """
    if name not in _RUNTIMES:
        raise RuntimeUnavailableError(f"Unknown runtime {name!r}; {advice(name, _RUNTIMES)}.")
    entry = _RUNTIMES[name]
    missing = [package for package in entry.needs if find_spec(package) is None]
    if missing:
        raise RuntimeUnavailableError(
            f"Runtime {name} needs {' and '.join(missing)}: `pip install 'aiq[{entry.extra}]'`."
        )
    module, _, attribute = entry.path.partition(":")
    runtime: Runtime = getattr(import_module(module), attribute)()
    return runtime


def for_file(path: Path) -> Runtime:
    """Return the runtime that writes and reads files with the suffix of `path`.

    Raises
    ------
    InputError
        If no runtime does.
    RuntimeUnavailableError
        If the runtime is not installed.
    """
    for name, entry in _RUNTIMES.items():
        if entry.suffix and entry.suffix == path.suffix:
            return get(name)
    suffixes = [entry.suffix for entry in _RUNTIMES.values() if entry.suffix]
    raise InputError(
        f"No runtime has files like {path.name!r}; end the name in {', '.join(suffixes[:-1])} "
        f"or {suffixes[-1]}."
    )
