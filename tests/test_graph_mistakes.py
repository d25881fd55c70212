"""Models and inputs that have no layer graph are refused with a sentence."""

import pytest
import torch
from graphs import Lambda
from torch import nn
from torch._higher_order_ops import while_loop

from aiq.errors import GraphError, InputError
from aiq.graph import export, trace
from aiq.models import resnet20


def test_control_flow_on_values():
    model = Lambda(lambda s, x: s.l(x) if s.l(x).sum() > 0 else x, l=nn.Linear(8, 8))
    with pytest.raises(GraphError, match=r"control flow depends on the values .*torch\.cond"):
        trace(model, torch.randn(2, 8))


@pytest.mark.parametrize("error", [InputError("mine"), MemoryError("mine"), KeyboardInterrupt])
def test_errors_that_are_not_of_dynamic_sizes_come_through(error):
    def forward(self, x):
        if isinstance(x.shape[0], torch.SymInt):
            raise error
        return self.l(x)

    with pytest.raises(error if isinstance(error, type) else type(error)):
        trace(Lambda(forward, l=nn.Linear(8, 8)), torch.randn(2, 8))


def test_a_model_that_bears_no_dynamic_sizes_is_exported_with_the_size_of_the_example():
    def forward(self, x):
        if isinstance(x.shape[0], torch.SymInt):
            raise KeyError("mine")
        return self.l(x)

    assert not trace(Lambda(forward, l=nn.Linear(8, 8)), torch.randn(2, 8)).dynamic_batch


def test_faults_of_the_export_itself_are_not_blamed_on_the_model(monkeypatch):
    monkeypatch.setattr(export, "decompositions", lambda: {}["nothing"])
    with pytest.raises(KeyError, match="nothing"):
        trace(nn.Sequential(nn.Linear(8, 8)), torch.randn(2, 8))


def test_sizes_that_depend_on_values():
    model = Lambda(lambda s, x: s.l(x[x[:, 0] > 0]), l=nn.Linear(8, 8))
    with pytest.raises(GraphError, match="depends on the values"):
        trace(model, torch.randn(2, 8))


def test_loops_of_unknown_length():
    def forward(self, x):
        return while_loop(lambda y: y.sum() < 9, lambda y: (self.l(y).abs() + 1,), (x,))

    with pytest.raises(GraphError, match="How often while_loop runs"):
        trace(Lambda(forward, l=nn.Linear(8, 8)), torch.randn(2, 8))


def test_what_torch_cannot_export():
    model = Lambda(lambda s, x: torch.tensor(s.l(x).detach().numpy()), l=nn.Linear(8, 8))
    with pytest.raises(GraphError, match=r"cannot be exported.*numpy.*submodule"):
        trace(model, torch.randn(2, 8))


def test_errors_print_nothing(capfd):
    model = Lambda(lambda s, x: s.l(x) if s.l(x).sum() > 0 else x, l=nn.Linear(8, 8))
    for bad in (torch.randn(2, 8), torch.randn(2, 9)):
        with pytest.raises(GraphError) as raised:
            trace(model, bad)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 500
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("wrong", [(2, 9), (8,), (2, 3, 4)])
def test_wrong_shapes(wrong):
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    with pytest.raises(GraphError, match=r"fails on the example inputs: .* Pass inputs"):
        trace(model, torch.randn(wrong))


def test_unknown_keyword():
    with pytest.raises(GraphError, match="unexpected keyword argument 'image'"):
        trace(nn.Linear(8, 8), {"image": torch.randn(2, 8)})


@pytest.mark.parametrize("inputs", [None, (), {}, [], 3, "cat", ({"x": 1},)])
def test_no_example_inputs(inputs):
    with pytest.raises(GraphError, match="pass a tensor"):
        trace(nn.Linear(8, 8), inputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value):
    model = resnet20()
    with torch.no_grad():
        model.layer2[1].conv1.weight[3, 2, 1, 0] = value
    with pytest.raises(GraphError, match=r"'layer2\.1\.conv1\.weight' holds NaN or infinite"):
        trace(model, torch.randn(1, 3, 32, 32))


def test_statistics_that_are_not_numbers():
    model = resnet20()
    model.bn1.running_var[2] = float("nan")
    with pytest.raises(GraphError, match=r"'bn1\.running_var' holds NaN"):
        trace(model, torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("model", [nn.Linear, torch.relu, None, "resnet18"])
def test_not_a_module(model):
    with pytest.raises(GraphError, match=r"pass a torch\.nn\.Module instance"):
        trace(model, torch.randn(1, 8))


def test_uninitialised_lazy_layer():
    with pytest.raises(GraphError, match="run the model once"):
        trace(nn.LazyLinear(8), torch.randn(1, 8))


@pytest.mark.parametrize("model", [nn.ReLU(), nn.LSTM(8, 8), nn.BatchNorm1d(8), nn.Sequential()])
def test_nothing_to_quantise(model):
    with pytest.raises(GraphError, match="nothing to quantise"):
        trace(model, torch.randn(4, 8))
