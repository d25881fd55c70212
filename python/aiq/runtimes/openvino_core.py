"""The one OpenVINO core of the process."""

from functools import cache

import openvino


@cache
def core() -> openvino.Core:
    """Return the core, which lives as long as the process.

    The CPU plugin gives its thread an alternate signal stack when the first core loads it, and
    takes it away with the last program of that core. Where two cores end in the order in which they
    began, the thread is left with a signal stack that is gone, and the next Ctrl-C is a
    segmentation fault.
    """
    return openvino.Core()
