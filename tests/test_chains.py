"""The programs of a calibration: what they consist of, and what is timed inside them."""

import itertools

import torch
from torch import nn

from aiq import calibrate, runtimes
from aiq.calibrate import chains, programs
from aiq.graph import trace


def test_programs_are_the_same_every_time_and_no_layer_is_idle():
    names = [*chains.program_names(["fp32", "bf16", "w8a8"], 3), "thumbnails/w8a8/1"]
    assert len(names) == len(set(names))
    families = {name.partition("/")[0] for name in names}
    for name in (next(n for n in names if n.startswith(family)) for family in sorted(families)):
        one, two = chains.program(name), chains.program(name)
        assert one.formats == two.formats
        assert torch.equal(one.inputs, two.inputs)
        for a, b in zip(one.module.parameters(), two.module.parameters(), strict=True):
            assert torch.equal(a, b)
        assert torch.isfinite(one.module(one.inputs)).all()
        graph = trace(one.module.to("meta"), one.inputs.to("meta")).graph
        assert {layer.name for layer in graph.quantizable} == set(one.formats)


def test_integer_layers_with_bfloat16_between_them_are_timed_where_there_are_both():
    for formats, expected in ((("fp32", "bf16", "w8a8"), True), (("fp32", "w8a8"), False)):
        names = chains.program_names(formats, 1)
        assert any("/w8a8bf16/" in name for name in names) is expected
        assert any("+w8a8bf16/" in name for name in names) is expected


def test_one_format_needs_no_mixed_programs():
    assert not any("+" in name for name in chains.program_names(["fp32"], 4))


def test_a_layer_is_cut_in_its_own_format():
    # Layers of these families do not run in the order in which their modules list them.
    drawn = [chains.program(f"{f}/fp32+w8a8/{i}") for f in ("branches", "inverted") for i in (1, 3)]
    ends, seen = {"fp32": ".fp32", "w8a8": ".int8"}, set()
    engine = runtimes.get("onnxruntime")
    for program, part in zip(drawn, programs.compile_programs(engine, drawn), strict=True):
        made_of = programs.cut(engine, part.graph, program.formats)
        assert made_of.layers
        for name, piece in made_of.layers.items():
            assert piece.kernel.endswith(ends[program.formats[name]])
            seen.add(program.formats[name])
    assert seen == set(ends)


def test_no_layer_is_followed_by_one_that_skips_most_of_its_results():
    # OpenVINO moves the stride of such a layer into the one before.
    for name in (f"{family}/fp32/{i}" for family in ("pointwise", "chain") for i in range(12)):
        convs = [m for m in chains.program(name).module.modules() if isinstance(m, nn.Conv2d)]
        assert all(conv.stride[0] <= conv.kernel_size[0] for conv in convs)


def test_layers_are_timed_inside_their_programs():
    names = ["conv/w8a8/1", "conv/fp32/1"]
    engine = runtimes.get("onnxruntime")
    found, noise = programs.samples(engine, names, calibrate.anchor(engine))
    assert noise >= 0
    assert len({sample.anchor for sample in found}) == 1
    for name in names:
        whole, *layers = [sample for sample in found if sample.program == name]
        assert whole.is_whole
        assert len(layers) > 1
        assert not any(layer.is_whole for layer in layers)
        assert sum(layer.seconds for layer in layers) <= whole.seconds
        assert {piece for layer in layers for piece in layer.pieces} <= set(whole.pieces)


def test_what_stands_between_layers_is_timed_where_a_profiler_tells_it_from_them():
    names = ["pool/w8a8/0", "chain/fp32/1", "attention/fp32/0"]  # the last fuses GELU into layers
    engine = runtimes.get("openvino")
    found, _ = programs.samples(engine, names, calibrate.anchor(engine))
    by_name = {sample.name: sample for sample in found}
    rests = [name for name in names if f"{name}#{programs.REST}" in by_name]
    assert rests == names[:2]
    for name in rests:
        whole, rest = by_name[name], by_name[f"{name}#{programs.REST}"]
        assert rest.pieces == tuple(piece for piece in whole.pieces if not piece.shape)
        assert 0 < rest.seconds < whole.seconds


def test_the_layers_of_a_plan_alternate_are_scattered_or_stand_in_runs():
    formats = "fp32+bf16+w8a8+w8a8bf16"
    plans = [list(chains.program(f"chain/{formats}/{i}").formats.values()) for i in range(40)]
    assert all(set(plan) <= set(formats.split("+")) for plan in plans)
    long = [plan for plan in plans if len(plan) > 3]
    alternate = [
        len(set(plan[::2])) == len(set(plan[1::2])) == 1 and plan[0] != plan[1] for plan in long
    ]
    assert 0.2 < sum(alternate) / len(long) < 0.8
    changes = [sum(a != b for a, b in itertools.pairwise(plan)) for plan in long]
    assert 1 in changes  # two runs
    wanted = itertools.combinations(("fp32", "bf16", "w8a8"), 2)
    assert set(map(frozenset, wanted)) <= set(map(frozenset, plans))
