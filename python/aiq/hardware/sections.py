"""Names of the sections of runtimes in profiles."""

DECODERS = {"openvino": "openvino_decoder", "onnxruntime": "onnxruntime_decoder"}
"""Runtime -> section of its decoders in folders.

A decoder with a cache is another program than a network with fixed inputs, with other kernels.
"""

GGUF = "llamacpp"
"""Section of the runtimes of GGUF files, which run nothing but decoders."""


def prices_tokens(name: str | None) -> bool:
    """Return whether a section prices the tokens of decoders, and no whole batches."""
    return name == GGUF or name in DECODERS.values()


def section(runtime: str, *, decodes: bool) -> str:
    """Return the section that prices what a runtime runs: whole batches, or a decoder's tokens."""
    return DECODERS.get(runtime, runtime) if decodes else runtime


def owner(name: str) -> str:
    """Return the runtime to which a section belongs."""
    return next((runtime for runtime, own in DECODERS.items() if own == name), name)


def calibration_command(name: str, profile: str) -> str:
    """Return the command that adds a section to a profile."""
    return f"aiq calibrate --runtime {name} --add-to {profile} -o {profile}.yaml"
