"""Operators that the integer kernels of each runtime apply to their result before they round it.

What they do not absorb is a rounding point, see `aiq.quantize.points`. The search asks here for the
runtime of its plan, which need not be installed.
"""

from torch import fx

from aiq.graph import Op
from aiq.graph.operators import CONVOLUTIONS, classify, is_transposed
from aiq.graph.simplify import name_of
from aiq.quantize.points import Absorbs, absorbs_all


def absorbs(runtime: str | None) -> Absorbs:
    """Return the rule of a runtime; if there is none, kernels absorb all that fuses into a layer.

    Inductor generates the code behind its kernels, so it absorbs everything.
    """
    return _RULES.get(runtime or "", absorbs_all)


def _onnxruntime(node: fx.Node, result: fx.Node) -> bool:
    """Whether QLinearConv and QGemm apply an operator to `result`: they apply clamps."""
    return name_of(node) in {"relu", "relu6", "hardtanh", "clamp"}


def _openvino(node: fx.Node, result: fx.Node) -> bool:
    """Whether a kernel of OpenVINO's CPU plugin applies an operator to `result`.

    A convolution adds a tensor to its result without a pass of its own. If that tensor is the
    result of another convolution, which nothing else reads, it has to be rounded and no more.
    Otherwise the low-precision transformations of OpenVINO 2026.4 put the scale of the tensor
    between convolution and addition, which then run apart and in float32, unless the result of the
    convolution is rounded before the addition, too. Inside some kernels, as in all of ResNet-20,
    OpenVINO leaves that rounding out, so its results are then slightly better than simulated.
    """
    if name_of(node) != "add" or name_of(result) not in CONVOLUTIONS or is_transposed(result):
        return True
    return all(_is_summand(x) for x in node.all_input_nodes if x is not result)


def _is_summand(value: fx.Node) -> bool:
    """Whether `value` is the result of a convolution or of its activation, with one reader."""
    while value.op == "call_function" and len(value.users) == 1:
        if name_of(value) in CONVOLUTIONS:
            return not is_transposed(value)
        if classify(value) is not Op.ACTIVATION:
            return False
        value = value.all_input_nodes[0]
    return False


_RULES = {"onnxruntime": _onnxruntime, "openvino": _openvino}
