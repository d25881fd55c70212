"""The only OpenVINO core of the process."""

from functools import cache

import openvino


@cache
def core() -> openvino.Core:
    """Return the core, which lives as long as the process.

    The CPU plugin sets an alternate signal stack for its thread when the first core loads it, and
    frees it with the last program of that core. If two cores end in the order in which they began,
    the thread keeps a freed signal stack, and the next Ctrl-C is a segmentation fault.
    """
    return openvino.Core()
