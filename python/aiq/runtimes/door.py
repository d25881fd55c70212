"""Turn exceptions of exporters, compilers and runtimes into one of aiq's."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiq.errors import AiqError, RuntimeUnavailableError, reason

_ADVICE = "choose another runtime, or rewrite that part of the model"


@contextmanager
def door(runtime: str, action: str, advice: str = _ADVICE) -> Iterator[None]:
    """Raise the exceptions of a runtime as `RuntimeUnavailableError`.

    Parameters
    ----------
    runtime
        Name of the runtime.
    action
        Words that complete the sentence "Runtime X cannot ...".
    advice
        Words at the end of that sentence that say what to do.

    Raises
    ------
    RuntimeUnavailableError
        If the block raises an exception that is not one of `aiq.errors`. Interrupts and
        `MemoryError` are passed on.
    """
    try:
        yield
    except (AiqError, MemoryError):
        raise
    except Exception as error:
        raise RuntimeUnavailableError(
            f"Runtime {runtime} cannot {action} ({reason(error)}); {advice}."
        ) from error
