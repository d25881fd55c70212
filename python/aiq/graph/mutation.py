"""Remove in-place updates of inputs, buffers and parameters from an exported graph.

A compiled program keeps no state between calls, so outputs must not depend on updated state.
"""

from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, OutputKind

from aiq.errors import GraphError
from aiq.graph.simplify import name_of, reads_only_metadata

_STATE = {OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION}


def forget_writes(program: ExportedProgram, model: str) -> bool:
    """Remove the updates of inputs, buffers and parameters from a functional `program`.

    Returns
    -------
    bool
        Whether there were updates of inputs.

    Raises
    ------
    GraphError
        If an output depends on a buffer or parameter that the `model` of this name updates, so
        that the next call would return another one.
    """
    signature = program.graph_signature
    output = program.graph.output_node()
    (values,) = output.args
    assert isinstance(values, (tuple, list)), "exported graphs return a tuple"
    pairs = list(zip(signature.output_specs, values, strict=True))
    results = [(spec, node) for spec, node in pairs if spec.kind is OutputKind.USER_OUTPUT]
    read = _read_by([node for _, node in results if isinstance(node, fx.Node)])
    state = {spec.target: spec.kind for spec, _ in pairs if spec.kind in _STATE}
    for spec in signature.input_specs:
        if spec.target in state and getattr(spec.arg, "name", None) in read:
            kind = "buffer" if state[spec.target] is OutputKind.BUFFER_MUTATION else "parameter"
            raise GraphError(
                f"{model} writes into its {kind} {spec.target!r} and its results depend on what "
                "was there before; a compiled program keeps no state: pass it in as an input and "
                "return it."
            )
    if len(results) < len(pairs):
        output.args = (tuple(node for _, node in results),)
        program.graph.eliminate_dead_code()
        program.graph_module.recompile()
        program._graph_signature = ExportGraphSignature(
            signature.input_specs, [spec for spec, _ in results]
        )
    return any(spec.kind is OutputKind.USER_INPUT_MUTATION for spec, _ in pairs)


def _read_by(nodes: list[fx.Node]) -> set[str]:
    """Return the names of `nodes` and of all nodes on whose values they depend."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        if not reads_only_metadata(node):
            # A copy uses only the shape of its first operand, not its values.
            waiting += node.all_input_nodes[1:] if name_of(node) == "copy" else node.all_input_nodes
    return {node.name for node in found}
