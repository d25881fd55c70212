"""Runtimes, which execute plans."""

import logging

from aiq.runtimes.base import Runtime
from aiq.runtimes.program import Compiled, Mismatch
from aiq.runtimes.registry import available, for_file, get, names
from aiq.runtimes.support import Support

__all__ = [
    "Compiled",
    "Mismatch",
    "Runtime",
    "Support",
    "available",
    "for_file",
    "get",
    "names",
]

# Importing torchao makes torch log a deprecation that users of aiq cannot act on.
logging.getLogger("torch.utils._pytree").addFilter(
    lambda record: "opaque value type" not in str(record.msg)
)
