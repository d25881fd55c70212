"""Models that write into inputs, buffers and themselves: nothing of the caller's changes."""

import copy
import threading

import pytest
import torch
from torch import nn

from aiq import runtimes
from aiq.errors import GraphError
from aiq.evaluate import Evaluator
from aiq.formats import parse
from aiq.graph import trace


class Net(nn.Module):
    """Two layers behind a function that may write into its input; and a state."""

    def __init__(self, prepare=lambda self, x: x):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.prepare, self.calls = prepare, 0
        self.register_buffer("state", torch.zeros(8))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.memory = torch.zeros(8)

    def forward(self, x):
        return self.b(torch.relu(self.a(self.prepare(self, x))))


def normalise(self, x):
    x -= 3.0
    x /= 2.0
    return x


def patch(self, x):
    x[:, :2] = 1.0
    x[0].mul_(2.0)
    return x


def clamped(self, x):
    return x.clamp_(-0.5, 0.5).T.neg_().T


def counts(self, x):
    self.count += 1
    self.calls += 1
    return x


def overwrites(self, x):
    self.state.copy_(x.mean(0))
    return x + self.state


def last_seen(self, x):
    self.state[:] = x[-1]
    return x


def keeps(self, x):
    self.state.add_(x.mean(0))
    return x + self.state


def assigns(self, x):
    x = x + self.state
    self.state = 0.9 * self.state + 0.1 * x.mean(0)
    return x


def cache(self, x):
    self.state.index_copy_(0, self.count.view(1), x[0, :1])
    self.count += 1
    return x * self.state


def attribute(self, x):
    self.memory += x.mean(0)
    return x + self.memory


def weights(self, x):
    with torch.no_grad():
        self.a.weight.clamp_(-0.1, 0.1)
    return x


@pytest.mark.parametrize("prepare", [normalise, patch, clamped, counts, overwrites, last_seen])
def test_a_trace_computes_what_the_model_does_and_writes_into_nothing(prepare):
    net, x = Net(prepare).eval(), torch.randn(5, 8)
    given, before = x.clone(), copy.deepcopy(net.state_dict())
    traced = trace(net, x)
    with torch.no_grad():
        result = traced.module(x)
        expected = copy.deepcopy(net)(x.clone())
    torch.testing.assert_close(result, expected)
    assert torch.equal(x, given)
    assert net.calls == 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert traced.writes_inputs == (prepare in {normalise, patch, clamped})


@pytest.mark.parametrize(
    ("prepare", "name"),
    [
        (keeps, "buffer 'state'"),
        (assigns, "buffer 'state'"),
        (cache, "buffer 'state'"),
        (attribute, "tensor 'memory'"),
        (weights, "parameter 'a.weight'"),
    ],
)
def test_a_model_whose_state_matters_is_refused(prepare, name):
    net, x = Net(prepare).eval(), torch.randn(5, 8)
    given, before = x.clone(), copy.deepcopy(net.state_dict())
    with pytest.raises(GraphError, match=f"Net writes into its {name}.*keeps no state: pass it"):
        trace(net, x)
    assert torch.equal(x, given)
    assert not net.memory.any()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime", "openvino"])
def test_programs_leave_their_inputs_alone(runtime):
    net, x = Net(normalise).eval(), torch.randn(16, 8)
    given = x.clone()
    program = runtimes.get(runtime).compile(net, x, {})
    with torch.no_grad():
        expected = net(x.clone())
    for _ in range(2):
        torch.testing.assert_close(program(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, given)


def test_evaluation_leaves_the_data_alone():
    net, x = Net(normalise).eval(), torch.randn(64, 8)
    with torch.no_grad():
        y = net(x.clone()).argmax(1)
    given = x.clone()
    w8a8 = dict.fromkeys("ab", parse("w8a8"))
    found = {
        Evaluator(net, [(x, y)], memory=memory).evaluate(w8a8).accuracy for memory in (2**31, 1)
    }
    assert len(found) == 1
    assert found.pop() > 0.9
    assert torch.equal(x, given)


def test_a_failure_leaves_inputs_and_buffers_alone():
    def fails(self, x):
        x -= 1.0
        self.state += 1.0
        return x if x.sum() > 0 else -x

    net, x = Net(fails).train(), torch.randn(5, 8)
    given, modules = x.clone(), dict(net.named_modules())
    with pytest.raises(GraphError, match="control flow depends on the values"):
        trace(net, x)
    assert torch.equal(x, given)
    assert not net.state.any()
    assert net.training
    assert dict(net.named_modules()) == modules


def test_a_model_that_cannot_be_copied_is_as_it_was():
    net, x = Net(counts).train(), torch.randn(5, 8)
    net.lock, net.b.training = threading.Lock(), False
    hook = net.a.register_forward_hook(lambda *_: None)
    before = {name: (type(p), p.data_ptr()) for name, p in net.named_parameters()}
    traced = trace(net, x)
    assert traced.module.get_parameter("a.weight") is net.a.weight
    assert (net.training, net.b.training, net.calls, int(net.count)) == (True, False, 0, 0)
    assert {n: (type(p), p.data_ptr()) for n, p in net.named_parameters()} == before
    assert list(net.a._forward_hooks) == [hook.id]
