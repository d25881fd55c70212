"""Exports in several threads: one at a time, and nobody else's output is touched."""

import io
import logging
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import aiq
from aiq.errors import GraphError, InputError
from aiq.exporting import exporting, exporting_onnx
from aiq.graph import trace

LOG = logging.getLogger("test_exporting")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()).append(
        nn.Linear(8 * 36, 4)
    )


def test_threads_that_trace_one_model_agree_and_leave_it_whole():
    model, x = net().train(), torch.randn(2, 3, 8, 8)
    model[0].register_forward_hook(lambda *_: None)
    before = {name: (type(p), p.data_ptr()) for name, p in model.named_parameters()}
    alone = trace(model, x).graph
    with ThreadPoolExecutor(2) as pool:
        graphs = list(pool.map(lambda _: trace(model, x).graph, range(4)))
    assert all(graph == alone for graph in graphs)
    assert {n: (type(p), p.data_ptr()) for n, p in model.named_parameters()} == before
    assert all(module.training for module in model.modules())
    assert model(x).shape == (2, 4)


def test_other_threads_are_heard_meanwhile(capsys):
    inside, done = threading.Event(), threading.Event()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.root.addHandler(handler)
    filters, output = list(warnings.filters), sys.stdout

    def export():
        with exporting():
            inside.set()
            done.wait(10)
            LOG.error("silent")
            warnings.warn("silent", stacklevel=1)

    thread = threading.Thread(target=export)
    try:
        thread.start()
        assert inside.wait(10)
        assert sys.stdout is output
        print("printed")
        LOG.error("logged")
        with pytest.warns(UserWarning, match="warned"):
            warnings.warn("warned", stacklevel=1)
    finally:
        done.set()
        thread.join()
        logging.root.removeHandler(handler)
    assert capsys.readouterr().out == "printed\n"
    assert stream.getvalue() == "logged\n"
    assert warnings.filters == filters
    assert handler.filters == []


def test_warnings_that_are_errors_stop_no_export():
    model, x = net().eval(), torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trace(model, x).dynamic_batch


def test_inference_mode_is_no_obstacle():
    model, x = net().eval(), torch.randn(2, 3, 8, 8)
    expected = trace(model, x).graph
    with torch.inference_mode():
        assert trace(model, x).graph == expected
        assert trace(model, torch.randn(2, 3, 8, 8)).graph == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_refused(dtype):
    x = torch.randn(2, 8, dtype=dtype)
    with pytest.raises(GraphError, match=r"is b?float\d\d.* pass model\.float\(\)"):
        trace(nn.Linear(8, 4).to(dtype), x)


class Cast(nn.Module):
    """A layer in a dtype of its own."""

    def __init__(self, layer, autocast=False):
        super().__init__()
        self.layer, self.autocast = layer, autocast

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.layer(x)


@pytest.mark.parametrize(
    ("model", "x", "dtype"),
    [
        (Cast(nn.Linear(8, 4), autocast=True), torch.randn(2, 8), "bfloat16"),
        (Cast(nn.Linear(8, 4)), torch.randn(2, 8, dtype=torch.float64), "float64"),
        (
            Cast(nn.Linear(8, 4, dtype=torch.cfloat)),
            torch.randn(2, 8, dtype=torch.cfloat),
            "complex64",
        ),
    ],
)
def test_layers_that_compute_in_other_dtypes_are_refused(model, x, dtype):
    with pytest.raises(GraphError, match=f"computes in {dtype}.* pass model"):
        trace(model, x)


def test_modules_that_were_made_from_modules():
    x = torch.randn(2, 8)
    layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    exported = torch.export.export(layers, (x,)).module()
    for model in (exported, nn.Sequential(exported)):
        traced = trace(model, x)
        assert [layer.weight_shape for layer in traced.graph.quantizable] == [(8, 8), (4, 8)]
        torch.testing.assert_close(traced.module(x), layers(x))
    with pytest.raises(GraphError, match="'0' is a TorchScript module"):
        trace(nn.Sequential(torch.jit.trace(layers, x)), x)


def test_the_first_module_may_work_in_place():
    x = torch.randn(2, 8)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 4)).eval()
    traced = trace(model, x)
    torch.testing.assert_close(traced.module(x), model(x.clone()))


def test_weights_on_the_meta_device_need_a_sensitivity():
    with torch.device("meta"):
        model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(2, 8)
    with pytest.raises(InputError, match=r"weights are on the meta device.* a function"):
        aiq.search(model, "xeon_2vcpu_roofs", example_inputs=x)
    plan = aiq.search(model, "xeon_2vcpu_roofs", example_inputs=x, sensitivity=lambda n, f: 0.0)
    assert [layer.name for layer in plan.layers] == ["0", "2"]


def test_operators_of_a_new_library_are_known_to_the_next_export():
    # PyTorch's list of operators is kept between exports, and must not become stale.
    with exporting():
        before = torch._export.utils._collect_all_valid_cia_ops()
    library = torch.library.Library("aiq_test_exporting", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CompositeImplicitAutograd")
    with exporting():
        found = torch._export.utils._collect_all_valid_cia_ops()
    plain = torch._export.utils._collect_all_valid_cia_ops()
    assert found == plain
    assert {op.name() for op in found - before} == {"aiq_test_exporting::twice"}


def test_translations_to_onnx_are_those_of_pytorch_and_are_made_once():
    registry = pytest.importorskip("torch.onnx._internal.exporter._registration").ONNXRegistry
    with exporting_onnx():
        kept, again, other = (registry.from_torchlib(opset_version=n) for n in (18, 18, 20))
    assert again is kept
    assert other is not kept
    plain = registry.from_torchlib(opset_version=18)
    assert plain is not kept
    assert plain.functions.keys() == kept.functions.keys()
