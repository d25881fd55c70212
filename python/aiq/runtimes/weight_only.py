"""Formats that round weights alone, and for which runtimes have a way of linear layers.

What is judged is what runs: activations stay float32. So each runtime takes the kernel that reads
them so, or unpacks the weights and multiplies in float32; kernels that are faster because they
round activations (to bfloat16, or to blocks of eight bits) are another format, which no name says
yet.
"""

FORMATS = frozenset(f"w{bits}{group}" for bits in (4, 8) for group in ("", "g32", "g64", "g128"))
"""The formats that linear layers store as integers."""
