"""Models that write into inputs, buffers and themselves: nothing of the caller's changes."""

import copy
import itertools
import random
import threading
from collections import deque

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


def counted(self, x):
    self.calls += 1
    return x * self.calls


def every_other(self, x):
    self.calls += 1
    return x if self.calls % 2 else -x


def numbered(self, x):
    return x + next(self.kept.setdefault("numbers", itertools.count()))


def averaged(self, x):
    self.kept.setdefault("all", []).append(x)
    return torch.stack(self.kept["all"]).mean(0)


def first_seen(self, x):
    return x + self.kept.setdefault("first", 2 * x)


def window(self, x):
    last = self.kept.setdefault("last", deque([torch.zeros(8)] * 2, maxlen=2))
    last.append(x.mean(0))
    return x + sum(last)


def before(self, x):
    self.memory, x = x.mean(0), x + self.memory
    return x


def drawn(self, x):
    return x * random.random()


_TOTAL = []


def of_the_module(self, x):
    _TOTAL.append(1)
    return x * len(_TOTAL)


@pytest.mark.parametrize(
    "prepare",
    [counted, every_other, numbered, averaged, first_seen, window, drawn, of_the_module],
)
def test_a_model_that_keeps_a_state_in_python_is_refused(prepare):
    net, x = Net(prepare).eval(), torch.randn(5, 8)
    net.kept = {}
    with pytest.raises(GraphError, match=r"Net computes something else in each call.*pass it in"):
        trace(net, x)
    assert (net.calls, net.kept) == (0, {})


def test_a_tensor_that_is_replaced_in_each_call_is_a_state():
    with pytest.raises(GraphError, match="state"):
        trace(Net(before).eval(), torch.randn(5, 8))


def logs(self, x):
    self.calls += 1
    self.kept.setdefault("seen", []).append(x.mean())
    return x


def table_made_once(self, x):
    return x * self.kept.setdefault("table", torch.arange(8.0).cos())


def constants(self, x):
    return x * torch.tensor([1.0, 2.0] * 4) + torch.as_tensor(self.memory)


def own_mask(self, x):
    y = torch.zeros_like(x)
    y[:, 1:] = x[:, 1:]
    return y


def draws_what_nobody_reads(self, x):
    torch.rand_like(x)
    return nn.functional.dropout(x, 0.5, self.training)


@pytest.mark.parametrize(
    "prepare", [logs, table_made_once, constants, own_mask, draws_what_nobody_reads]
)
def test_a_model_whose_results_need_no_state_is_traced(prepare):
    net, x = Net(prepare).eval(), torch.randn(5, 8)
    net.kept = {}
    traced = trace(net, x)
    with torch.no_grad():
        torch.testing.assert_close(traced.module(x), net(x))


@pytest.mark.parametrize(
    "noise",
    [
        lambda self, x: x + torch.rand_like(x),
        lambda self, x: nn.functional.dropout(x, 0.5, training=True),
        lambda self, x: x * torch.bernoulli(x.sigmoid()),
        lambda self, x: nn.functional.scaled_dot_product_attention(
            x[None], x[None], x[None], dropout_p=0.1
        )[0],
    ],
)
def test_random_results_are_said_to_be_random(noise):
    net, x = Net(noise).eval(), torch.randn(5, 8)
    assert trace(net, x).random  # what it costs is known all the same
    with pytest.raises(GraphError, match="results of Net are random"):
        runtimes.get("eager").compile(net, x, {})


def test_operators_that_could_draw_and_do_not_are_traced():
    net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True).eval()
    assert not trace(net, torch.randn(3, 5, 8)).random


def test_inference_mode():
    x = torch.randn(5, 8)
    with torch.inference_mode():
        made_inside = Net().eval()
        tensor = torch.randn(5, 8)
        assert trace(Net().eval(), x).dynamic_batch
    for net, inputs in ((made_inside, x), (made_inside, tensor), (Net().eval(), tensor)):
        traced = trace(net, inputs)
        with torch.no_grad():
            torch.testing.assert_close(traced.module(inputs), net(inputs))
    assert made_inside.a.weight.is_inference()
