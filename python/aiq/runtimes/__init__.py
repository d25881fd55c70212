"""Runtimes: what executes a plan for real."""

import logging

from aiq.runtimes.base import Compiled, Mismatch, Runtime, Support, available, get, names
from aiq.runtimes.save import save

__all__ = ["Compiled", "Mismatch", "Runtime", "Support", "available", "get", "names", "save"]

# Importing torchao makes torch log a deprecation that concerns neither users nor us.
logging.getLogger("torch.utils._pytree").addFilter(
    lambda record: "opaque value type" not in str(record.msg)
)
