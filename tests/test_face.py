"""A plan knows what it was made for: the plan and the model are enough to run it."""

from dataclasses import replace

import pytest
import reports
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import aiq
from aiq.deployment import runtime_of
from aiq.errors import InputError
from aiq.plan import InputSpec, Plan


class Pair(nn.Module):
    """Embeds words, weighs them, and classifies the sum."""

    def __init__(self, width=16, activation=nn.ReLU):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(10, width)
        self.up = nn.Linear(width, 32)
        self.activation = activation()
        self.down = nn.Linear(32, 4)

    def forward(self, ids, weights):
        x = (self.words(ids) * weights[..., None]).sum(1)
        return self.down(self.activation(self.up(x)))


class Single(Pair):
    def forward(self, ids):
        return super().forward(ids, torch.ones(ids.shape))


def batches(form, count=2, size=8):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        ids = torch.randint(10, (size, 5), generator=generator)
        weights = torch.rand(size, 5, generator=generator)
        yield {
            "tensor": ids,
            "tuple": (ids, weights),
            "list": [ids, weights],
            "dict": {"ids": ids, "weights": weights},
        }[form]


def loader(form, **shape):
    return [(inputs, torch.arange(8) % 4) for inputs in batches(form, **shape)]


def model_of(form):
    return (Single if form == "tensor" else Pair)().eval()


def call(program, inputs):
    if isinstance(inputs, dict):
        return program(**inputs)
    return program(*inputs) if isinstance(inputs, tuple | list) else program(inputs)


def searched(model, data):
    options = {"formats": "w8a8", "max_drop": 1.0, "runtime": "onnxruntime"}
    return aiq.search(model, "xeon_2vcpu_roofs", data, **options)


@pytest.fixture(scope="module", params=["tensor", "tuple", "list", "dict"])
def made(request):
    """Return a form of inputs, and a plan for a model that takes it, from a loader of pairs."""
    form = request.param
    plan = aiq.search(
        model_of(form),
        "xeon_2vcpu_roofs",
        loader(form),
        formats="w8a8",
        max_drop=1.0,
        runtime="onnxruntime",
    )
    return form, plan


def test_one_loader_does_for_search_deploy_compare_and_export(made, tmp_path):
    form, plan = made
    model, data = model_of(form), loader(form)
    runtime = "onnxruntime"
    program = aiq.deploy(plan, model, data=data, runtime=runtime)
    (inputs, _), *_ = data
    expected = call(model, inputs)
    assert (call(program, inputs) - expected).norm() < 0.05 * expected.norm()

    found = aiq.compare(plan, model, data=data, runtime=runtime, min_seconds=0.05)
    assert found.inputs == str(plan.workload.inputs)
    assert found.hardware == "xeon_2vcpu_roofs"

    aiq.export(plan, model, tmp_path / "model.onnx", data=data)
    again = aiq.load(tmp_path / "model.onnx")
    assert torch.equal(call(again, inputs), call(program, inputs))


def test_inputs_without_targets_and_generators_are_loaders_too(made):
    form, plan = made
    model = model_of(form)
    pairs = aiq.deploy(plan, model, data=loader(form), runtime="onnxruntime")
    alone = aiq.deploy(plan, model, data=batches(form), runtime="onnxruntime")
    (inputs, _), *_ = loader(form)
    assert torch.equal(call(pairs, inputs), call(alone, inputs))


def test_the_plan_says_what_to_run_and_survives_the_disk(made):
    form, plan = made
    model = model_of(form)
    again = Plan.from_json(plan.to_json())
    assert again.workload == plan.workload
    program = aiq.deploy(again, model, data=loader(form))
    assert program.runtime == "onnxruntime"
    assert aiq.compare(again, model, min_seconds=0.02).runtime == "onnxruntime"


def test_data_of_another_batch_size_is_compiled_for_the_plans(made):
    form, plan = made
    for size in (3, 20):
        program = aiq.deploy(plan, model_of(form), data=batches(form, size=size))
        inputs = next(batches(form, size=8))
        assert call(program, inputs).shape == (8, 4)


def test_weights_may_be_trained_further_and_other_models_are_refused():
    model = Pair().eval()
    plan = searched(model, loader("dict"))
    tuned = Pair().eval()
    with torch.no_grad():
        tuned.up.weight.mul_(1.01)
    aiq.deploy(plan, tuned, data=loader("dict"))
    for other, words in [
        (Pair(width=12), r"another model: it has layer 'words' .*10x16.*10x12"),
        (Pair(activation=nn.GELU), r"another model: .*relu.*gelu"),
        (Single(), "this model does not take"),
    ]:
        for act in (
            lambda other: aiq.deploy(plan, other, data=loader("dict")),
            lambda other: aiq.compare(plan, other),
            lambda other: aiq.export(plan, other, "never.onnx", data=loader("dict")),
        ):
            with pytest.raises(InputError, match=words) as caught:
                act(other.eval())
            assert "\n" not in str(caught.value)
    # for inputs of another shape operators may differ without a difference in the model
    inputs = {"ids": torch.ones(4, 7, dtype=torch.int64), "weights": torch.ones(4, 7)}
    assert aiq.deploy(plan, model, example_inputs=inputs, calibration=[inputs]).asked


def test_data_that_the_plan_was_not_made_for_is_refused():
    plan = aiq.search(
        Pair().eval(),
        "xeon_2vcpu_roofs",
        loader("dict"),
        formats="w8a8",
        max_drop=1.0,
        runtime="onnxruntime",
    )
    longer = [{"ids": torch.ones(8, 6, dtype=torch.int64), "weights": torch.rand(8, 6)}]
    with pytest.raises(InputError, match=r"ids 8x6 int64, weights 8x6 and .* ids 8x5 int64"):
        aiq.deploy(plan, Pair().eval(), data=longer)


def test_a_plan_of_an_older_version_needs_inputs_and_runs():
    model = Pair().eval()
    plan = searched(model, loader("dict"))
    old = Plan.from_json(reports.version_1(plan))
    assert old == replace(plan, workload=None, tables=None)
    with pytest.raises(InputError, match="older version, which kept no inputs"):
        aiq.deploy(old, model)
    assert runtime_of(old, None) == "inductor"
    assert aiq.deploy(old, model, data=loader("dict"), runtime="onnxruntime").asked


leaf = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]),
)
nested = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    ),
    max_leaves=5,
)


@given(nested)
def test_example_inputs_have_the_structure_that_was_kept(inputs):
    spec = InputSpec.of(inputs)
    assert InputSpec.of(spec.example()) == spec
