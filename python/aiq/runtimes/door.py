"""Where the exceptions of exporters, compilers and runtimes become one of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiq.errors import AiqError, RuntimeUnavailableError, reason

_ADVICE = "choose another runtime, or rewrite that part of the model"


@contextmanager
def door(runtime: str, action: str, advice: str = _ADVICE) -> Iterator[None]:
    """Raise as `RuntimeUnavailableError` what a runtime raises.

    Parameters
    ----------
    runtime
        Its name.
    action
        What it was to do; completes the sentence "Runtime X cannot ...".
    advice
        What to do about it; ends that sentence.

    Raises
    ------
    RuntimeUnavailableError
        For every exception that is not one of `aiq.errors`. Interrupts and a lack of memory pass.
    """
    try:
        yield
    except (AiqError, MemoryError):
        raise
    except Exception as error:
        raise RuntimeUnavailableError(
            f"Runtime {runtime} cannot {action} ({reason(error)}); {advice}."
        ) from error
