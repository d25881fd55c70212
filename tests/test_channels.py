"""Formats by groups of output channels: against enumeration, and against bytes counted by hand."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy import batch, train

import aiq
from aiq import sensitivity
from aiq.errors import DataError, FormatError, InputError
from aiq.evaluate import Evaluator
from aiq.formats import by_channel, parse, parse_all
from aiq.graph import trace
from aiq.planning.channel_choices import (
    channel_tables,
    combinations,
    group_channels,
    index_bits,
)
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.sensitivity import ChannelDrops, fisher
from aiq.sensitivity.estimated import make_context

FORMATS = parse_all("fp32,w4,w2")


class Net(nn.Module):
    """Two convolutions, one of them depthwise, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.depthwise(self.conv(x).relu()).relu()
        return self.fc(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    return train(Net)


@pytest.fixture(scope="module")
def evaluator(net):
    return Evaluator(net, [batch()])


@pytest.fixture(scope="module")
def drops(evaluator):
    return sensitivity.estimate_by_channel(evaluator, FORMATS)


def simulator_of(module, x):
    folded = fold(trace(module.eval(), x))
    return Simulator(folded, observe(folded, [x]))


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.Conv2d(4, 6, 3), torch.randn(2, 4, 5, 5)),
        (nn.Conv2d(6, 6, 3, groups=6), torch.randn(2, 6, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), torch.randn(2, 4, 5, 5)),
        (nn.Linear(5, 6), torch.randn(2, 5)),
    ],
    ids=["convolution", "depthwise", "transposed", "linear"],
)
def test_each_output_channel_is_that_of_its_own_format(module, x):
    names = ["w8", "w2", "fp32", "w2", "w4", "w8"]
    simulator = simulator_of(nn.Sequential(module), x)
    mixed = simulator.run(x, {"0": by_channel([parse(name) for name in names])})
    for channel, name in enumerate(names):
        whole = simulator.run(x, {"0": parse(name)})
        torch.testing.assert_close(mixed[:, channel], whole[:, channel])
    assert not torch.equal(mixed, simulator.run(x, {"0": parse("w8")}))


def test_a_format_for_another_number_of_channels_is_refused():
    x = torch.randn(2, 5)
    simulator = simulator_of(nn.Sequential(nn.Linear(5, 6)), x)
    with pytest.raises(InputError, match="has 6 output channels and the format has 2"):
        simulator.run(x, {"0": by_channel(parse_all("w4,w2"))})


def test_channels_of_one_format_are_that_format():
    assert by_channel([parse("w4")] * 3) == parse("w4")
    assert by_channel(parse_all("w4,fp32")) != by_channel(parse_all("fp32,w4"))


@pytest.mark.parametrize("name", ["w8a8", "bf16", "w4g64"])
def test_formats_that_a_channel_cannot_have_are_refused(name):
    with pytest.raises(FormatError, match=f"cannot have the format {name}"):
        by_channel([parse("w4"), parse(name)])
    with pytest.raises(FormatError, match="no output channels"):
        by_channel([])


def test_harm_of_a_channel_is_that_of_a_layer_with_only_this_channel_rounded(evaluator):
    def context(formats):
        return make_context(evaluator, None, evaluator.layers, formats, "fisher", 0, None)

    found = fisher.harm_by_channel(context(parse_all("w4,w2")))
    assert [len(found[name]) for name in evaluator.layers] == [6, 6, 4]
    for layer, channel in (("conv", 1), ("depthwise", 4), ("fc", 3)):
        formats = [parse("fp32")] * len(found[layer])
        formats[channel] = parse("w2")
        only = by_channel(formats)
        expected = fisher.harm(of_one_layer(context((only,)), layer)).mean()
        assert found[layer][channel, 1] == pytest.approx(float(expected), rel=1e-5)


def of_one_layer(context, layer):
    """Return the context with one layer, as others have other numbers of channels."""
    simulator = copy.copy(context.simulator)
    simulator.layers = tuple(x for x in simulator.layers if x.name == layer)
    return replace(context, simulator=simulator, layers=(layer,))


def test_drops_of_channels_add_up_to_those_of_layers(evaluator, drops):
    layers = sensitivity.estimate(evaluator, FORMATS, "fisher")
    for name, row in zip(layers.layers, layers.drop, strict=True):
        np.testing.assert_allclose(drops.drop[name].sum(0), row, rtol=1e-5)


def test_the_most_sensitive_channels_come_first():
    drop = np.array([[0, 1, 9], [0, 3, 40], [0, 0.5, 2], [0, 2, 20], [0, 4, 10]])
    assert group_channels(drop, 2) == ((1, 3, 4), (0, 2))
    assert group_channels(drop, 8) == ((1,), (4,), (3,), (0,), (2,))
    assert group_channels(np.zeros((3, 3)), 1) == ((0, 1, 2),)


@pytest.mark.parametrize(
    ("channels", "groups", "bits"),
    [
        (64, 8, 64 * 3 + 8 * 8),
        (10, 8, 32 + 64),  # 30 bits take four bytes
        (6, 3, 16 + 24),  # two bits name three groups
        (6, 1, 0),
    ],
)
def test_bits_of_the_index(channels, groups, bits):
    assert index_bits(channels, groups) == bits


def test_combinations_hold_the_best_one_within_every_budget():
    rng = np.random.default_rng(0)
    for _ in range(20):
        bits = rng.integers(1, 9, (4, 3)) * 16
        drop = rng.random((4, 3)).round(1)  # with ties
        index = int(rng.integers(0, 40))
        found = combinations(bits, drop, index)
        every = [
            (
                sum(int(bits[g, k]) for g, k in enumerate(plan)) + index * (len(set(plan)) > 1),
                sum(drop[g, k] for g, k in enumerate(plan)),
            )
            for plan in itertools.product(range(3), repeat=4)
        ]
        assert {c.columns for c in found} >= {(k,) * 4 for k in range(3)}
        for _, budget in every:
            best = min(b for b, d in every if d <= budget + 1e-9)
            assert min(c.bits for c in found if c.drop <= budget + 1e-9) == best


def test_the_solver_finds_the_best_of_all_grouped_plans(net, drops):
    graph = trace(net, batch()[0]).graph
    tables = channel_tables(graph, drops, 2).tables
    base = aiq.cost.intensity_table(graph, FORMATS).cost
    weights = {"conv": 162, "depthwise": 54 + 6, "fc": 24 + 4}
    index = {"conv": 8 + 16, "depthwise": 8 + 16, "fc": 8 + 16}  # one bit a channel: one byte
    bits_of = {"fp32": 32, "w4": 4, "w2": 2}
    per_layer = []
    for i, (name, count) in enumerate(weights.items()):
        halves = [
            drops.drop[name][list(part)].sum(0) for part in group_channels(drops.drop[name], 2)
        ]
        fixed = int(base[i, 0]) - 32 * count
        per_layer.append(
            [
                (
                    fixed
                    + count // 2 * (bits_of[FORMATS[a].name] + bits_of[FORMATS[b].name])
                    + index[name] * (a != b),
                    halves[0][a] + halves[1][b],
                )
                for a, b in itertools.product(range(3), repeat=2)
            ]
        )
    plans = np.array([np.sum(plan, axis=0) for plan in itertools.product(*per_layer)])
    assert len(plans) == 9**3
    for budget in np.quantile(plans[:, 1], [0.01, 0.1, 0.3, 0.6, 0.9]):
        found = tables.within(float(min(budget, 0.99)))
        assert found.status == "optimal"
        within = plans[plans[:, 1] <= min(budget, 0.99) + 1e-9]
        assert found.cost == within[:, 0].min()


def test_more_groups_never_cost_more_within_a_predicted_drop_than_whole_layers(net, drops):
    graph = trace(net, batch()[0]).graph
    whole = channel_tables(graph, drops, 1).tables
    assert [len(columns) for columns in whole.allowed] == [3, 3, 3]
    total = sum(table.sum(0)[-1] for table in drops.drop.values())
    for share in (0.02, 0.1, 0.3, 0.7):
        costs = [
            channel_tables(graph, drops, groups).tables.within(share * total).cost
            for groups in (1, 2, 3, 6)
        ]
        assert max(costs[1:]) <= costs[0]


class Twice(nn.Module):
    """A convolution that is called twice, which makes it one decision."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(self.conv(self.conv(x).relu()).mean((2, 3)))


def test_layers_that_share_a_weight_are_not_split():
    graph = trace(Twice().eval(), batch(4)[0]).graph
    rows = {x.name: np.ones((x.output_channels, 3)) * [0, 1, 4] for x in graph.quantizable}
    tables = channel_tables(graph, ChannelDrops(FORMATS, rows, ()), 8).tables
    assert tables.shared == (0, 0, 2)
    assert tables.allowed[0] == tables.allowed[1]
    assert len(tables.allowed[0]) == 3 < len(tables.allowed[2])


@pytest.fixture(scope="module")
def plan(net):
    return search(net)


def search(net):
    return aiq.search_channels(
        net,
        [batch()],
        groups=2,
        formats="w8,w4,w3,w2",
        max_drop=0.01,
        confidence=0.5,
        progress=None,
    )


def test_a_plan_counts_its_bytes_and_keeps_to_the_budget(net, plan, evaluator):
    weights = {"conv": 27, "depthwise": 9 + 1, "fc": 6 + 1}  # of an output channel
    graph = trace(net, batch()[0]).graph
    elements = sum(x.input_elements + x.output_elements for x in graph.quantizable)
    moved = 4 * elements
    for layer in plan.layers:
        assert sorted(c for group in layer.groups for c in group) == list(
            range(4 if layer.name == "fc" else 6)
        )
        bits = sum(
            len(group) * weights[layer.name] * chosen.weight.bits
            for group, chosen in zip(layer.groups, layer.formats, strict=True)
        )
        moved += bits / 8 + layer.index_bytes
        assert (layer.index_bytes > 0) == layer.is_split
    assert plan.intensity == pytest.approx(sum(x.flops for x in graph.quantizable) / moved)
    assert plan.intensity > plan.reference_intensity
    assert plan.accuracy.drop_limit <= 0.01
    assert evaluator.evaluate(plan.formats).accuracy == plan.accuracy.plan
    assert any(layer.is_split for layer in plan.layers)


def test_a_plan_says_what_it_is(plan):
    assert "No runtime has kernels for such layers" in str(plan)
    assert all(layer.name in str(plan) for layer in plan.layers)


def test_a_search_is_the_same_each_time(net, plan):
    again = search(net)
    assert again.layers == plan.layers


def test_a_plan_by_channels_is_not_deployed(net, plan, tmp_path):
    with pytest.raises(InputError, match="no runtime has kernels"):
        aiq.deploy(plan, net, data=[batch()], progress=None)
    with pytest.raises(InputError, match="no runtime has kernels"):
        aiq.export(plan, net, tmp_path / "net.onnx", data=[batch()], progress=None)
    with pytest.raises(InputError, match="no runtime has kernels"):
        aiq.compare(plan, net, data=[batch()])


@pytest.mark.parametrize("groups", [0, 9, 2.0, True, "8"])
def test_numbers_of_groups_that_make_no_sense_are_refused(net, groups):
    with pytest.raises(InputError, match=r"groups is .*; give a number from 1 to 8"):
        aiq.search_channels(net, [batch()], groups=groups, progress=None)


@pytest.mark.parametrize("name", ["w8a8", "bf16", "w4g64"])
def test_formats_for_whole_layers_are_refused(net, name):
    with pytest.raises(InputError, match=f"some of them cannot be {name}"):
        aiq.search_channels(net, [batch()], formats=f"w8,{name}", progress=None)


def test_one_format_is_no_choice(net):
    with pytest.raises(InputError, match="formats has only fp32"):
        aiq.search_channels(net, [batch()], formats="fp32", progress=None)


def test_other_arguments_are_checked_as_in_a_search(net):
    with pytest.raises(InputError, match="max_drop is 1"):
        aiq.search_channels(net, [batch()], max_drop=1, progress=None)
    with pytest.raises(InputError, match="rounding is 'up'"):
        aiq.search_channels(net, [batch()], rounding="up", progress=None)
    for cache in (True, False, 5):
        with pytest.raises(
            DataError, match=f"cache is {cache}; give the path of the folder .*None"
        ):
            aiq.search_channels(net, [batch()], cache=cache, progress=None)
        with pytest.raises(DataError, match=f"cache is {cache}; give the path of the folder"):
            Evaluator(net, [batch()], cache=cache)


def test_without_any_drop_a_plan_is_float32(net):
    found = aiq.search_channels(net, [batch()], formats="w2", max_drop=0.0, progress=None)
    assert found.intensity == found.reference_intensity
    assert found.index_bytes == 0
