"""torchao's quantised operators: importing this registers them, without a word in the log."""

import logging
from importlib import import_module

# Importing torchao makes torch log a deprecation that concerns neither users nor us.
logging.getLogger("torch.utils._pytree").addFilter(
    lambda record: "opaque value type" not in str(record.msg)
)
import_module("torchao.quantization.pt2e")
