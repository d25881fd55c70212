"""Weight-only formats that runtimes support in linear layers.

The accuracy that was measured is that of float32 activations. Each runtime therefore uses a kernel
that reads float32, or unpacks the weights and multiplies in float32. Kernels that are faster
because they round activations (to bfloat16, or to blocks of eight bits) would be another format,
which has no name yet.
"""

FORMATS = frozenset(f"w{bits}{group}" for bits in (4, 8) for group in ("", "g32", "g64", "g128"))
"""Names of the weight-only formats that linear layers store as integers."""
