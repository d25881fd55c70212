"""Training with a plan: what is trained is what runs, and a stopped training goes on as it was."""

import json
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
import toy
from torch import nn
from trainable import HW, Residual, batches, searched

import aiq
from aiq import graph
from aiq.errors import DataError, GraphError, InputError, Interrupted
from aiq.evaluate import Evaluator
from aiq.formats import parse
from aiq.learned import LearnedActivation, LearnedScales, LearnedWeight
from aiq.plan import Plan
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.runtimes.absorbed import absorbs
from aiq.training.network import TrainableNetwork
from aiq.training.writing import places_in, with_trained


@pytest.fixture(scope="module")
def net():
    return toy.train(Residual)


@pytest.fixture(scope="module")
def plan(net):
    pins = {"conv1": "w4a4", "conv2": "w2a3", "fc": "w8a8"}
    return searched(net, batches(64), pin=pins, formats="fp32", runtime="onnxruntime")


tune = partial(aiq.finetune, progress=None, lr=5e-3)


@pytest.fixture(scope="module")
def trained(net, plan):
    return tune(plan, net, batches(), epochs=4)


@pytest.fixture
def exported_once(monkeypatch):
    """Export each model once in a test: a training does not change what was exported."""
    monkeypatch.setattr(graph, "trace", cache(graph.trace))


def simulator(plan, model, x, runtime="onnxruntime"):
    """Return the package's own simulator of a plan and a model."""
    trace = replace(graph.trace(model, x), rounding=plan.rounding, learned=plan.learned)
    rule = absorbs(runtime)
    return Simulator(fold(trace), observe(fold(trace), [x], rule), absorbs=rule)


def test_training_sees_what_is_simulated_bit_for_bit(net, plan, trained):
    (x, _), *_ = batches(64)
    trace = fold(graph.trace(net, x))
    rule = absorbs("onnxruntime")
    network = TrainableNetwork(trace, observe(trace, [x], rule), plan.formats, rule)
    with torch.no_grad():
        before = network.run(x, plan.formats)
        assert torch.equal(before, simulator(plan, net, x).run(x, plan.formats))
        for parameter in network.parameters.values():  # as a training would
            parameter.add_(0.05 * torch.randn(parameter.shape))
        after = network.run(x, plan.formats)
        weights, biases = network.rounded_weights(), network.biases
        model = with_trained(net, places_in(net, graph.trace(net, x), trace), weights, biases)
        changed = replace(plan, learned=network.learned())
        assert torch.equal(after, simulator(changed, model, x).run(x, plan.formats))
        assert not torch.allclose(before, after, atol=0.1)


def test_a_deployed_program_runs_what_was_trained(plan, trained):
    pytest.importorskip("onnxruntime")
    (x, _), *_ = batches(64, seed=2)
    program = aiq.deploy(
        trained.plan,
        trained.model,
        data=batches(64),
        example_inputs=x,
        emulate=True,
        progress=None,
    )
    with torch.no_grad():
        expected = simulator(trained.plan, trained.model, x).run(x, plan.formats)
        own = simulator(replace(trained.plan, learned=None), trained.model, x).run(x, plan.formats)
        assert (program(x) - expected).norm() < 0.01 * expected.norm()
        assert (own - expected).norm() > 0.03 * expected.norm(), "the learned scales count"


def test_training_wins_accuracy_back(net, plan):
    narrow = tuple(replace(layer, format="w2a2") for layer in plan.layers)
    plan = replace(plan, layers=narrow, tables=None, certificate=None)
    validation = batches(200, seed=1, noise=0.7)
    evaluator = Evaluator(net, validation, calibration=batches(), absorbs=absorbs("onnxruntime"))
    before = evaluator.evaluate(plan.formats)
    trained = tune(plan, net, batches(noise=0.7), epochs=5, validation=validation, lr=0.01)
    found = trained.plan.accuracy
    assert found.baseline == evaluator.baseline.accuracy
    assert found.samples == 200
    assert before.drop > 0.05
    assert found.drop < before.drop / 2
    assert found.drop <= found.drop_limit <= 1
    assert trained.losses[-1] < trained.losses[0]
    assert "5 of 5 epochs of 4 batches" in str(trained.plan)


def test_the_model_that_was_given_does_not_change(net, plan):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    found = tune(plan, net, batches(64), optimizer="sgd", schedule="linear", weight_decay=1e-4)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert found.plan.accuracy is None
    assert "accuracy not measured after training" in str(found.plan)
    assert "not measured after training; give validation data" in str(found.plan)


def test_plans_keep_learned_scales_on_the_disk(plan, trained, tmp_path):
    trained.plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again.learned == trained.plan.learned
    (x, _), *_ = batches(64, seed=2)
    with torch.no_grad():
        expected = simulator(trained.plan, trained.model, x).run(x, plan.formats)
        assert torch.equal(simulator(again, trained.model, x).run(x, plan.formats), expected)
    old = json.loads(plan.to_json())
    del old["learned"]  # as versions before training wrote it
    assert Plan.from_json(json.dumps(old)) == plan


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("weights", 0, "scales", 0), -1.0),
        (("weights", 0, "scales", 0), 0.0),
        (("weights", 0, "scales", 0), 1e39),
        (("weights", 0, "scales"), []),
        (("weights", 0, "zero_points"), [0]),
        (("weights", 0, "format"), "bf16"),
        (("activations", 0, "bits"), 9),
        (("activations", 0, "zero_point"), 300),
    ],
)
def test_damaged_scales_are_refused(trained, place, value):
    document = json.loads(trained.plan.to_json())
    part = document["learned"]
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(InputError):
        Plan.from_json(json.dumps(document))


def test_scales_of_other_weights_are_refused(net, trained):
    with pytest.raises(InputError, match=r"give the model that aiq\.finetune returned"):
        aiq.deploy(trained.plan, net, data=batches(64), emulate=True, progress=None)
    short = replace(trained.plan.learned.weights[0], scales=(1.0,), zero_points=(0,))
    wrong = replace(trained.plan, learned=LearnedScales((short,)))
    with pytest.raises(InputError, match="are not those with which the plan's scales"):
        aiq.deploy(wrong, trained.model, data=batches(64), emulate=True, progress=None)


def test_scales_are_found_by_format():
    weight = LearnedWeight("a", "w4g32z", (0.5,), (3,))
    known = LearnedScales((weight,), (LearnedActivation("x", 4, 0.1, 2),))
    fmt = parse("w4g32z")
    assert known.weight("a", fmt.weight, fmt.weight_granularity) == weight
    assert known.weight("a", fmt.weight, parse("w4").weight_granularity) is None
    assert known.weight("b", fmt.weight, fmt.weight_granularity) is None
    assert known.activation("x", parse("w8a4").activation).scale == 0.1
    assert known.activation("x", parse("w8a8").activation) is None


class Noisy:
    """Random batches in each epoch; Ctrl-C comes after so many batches."""

    def __init__(self, stop=None):
        self.left = stop

    def __len__(self):
        return 2

    def __iter__(self):
        for x, y in batches(128):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left = None if self.left is None else self.left - 1
            yield x + 0.1 * torch.randn(x.shape), y


@pytest.mark.usefixtures("exported_once")
def test_a_stopped_training_goes_on_bit_for_bit(net, plan, tmp_path):
    file = tmp_path / "training.pt"
    calibration = batches(64)
    train = partial(tune, plan, net, epochs=3, calibration=calibration)
    whole = train(Noisy())
    with pytest.raises(Interrupted, match=r"in epoch 2.*goes on there") as stop:
        train(Noisy(stop=3), checkpoint=file)
    assert isinstance(stop.value, KeyboardInterrupt)
    half = stop.value.trained
    assert half.plan == stop.value.plan
    assert len(half.losses) == 1
    (x, _), *_ = batches(64)
    assert simulator(half.plan, half.model, x).run(x, plan.formats).isfinite().all()

    again = train(Noisy(), checkpoint=file)
    assert again.losses == whole.losses
    assert again.plan == whole.plan
    states = (found.model.state_dict() for found in (again, whole))
    assert all(map(torch.equal, *(state.values() for state in states)))
    done = train(Noisy(stop=2), checkpoint=file)  # nothing is left to train
    assert done.plan == whole.plan

    with pytest.raises(Interrupted, match="stopped after its last epoch") as stop:
        train(Noisy(), checkpoint=file, validation=Noisy(stop=0))
    assert stop.value.plan == whole.plan
    with pytest.raises(InputError, match="checkpoint of another training"):
        train(Noisy(), checkpoint=file, lr=1e-4)
    file.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"is no checkpoint of aiq\.finetune; name another"):
        train(Noisy(), checkpoint=file)


class Command:
    """A pickle that would run a command."""

    def __reduce__(self):
        return print, ("let in",)


def test_a_checkpoint_lets_nobody_in(net, plan, tmp_path, capsys):
    file = tmp_path / "training.pt"
    torch.save({"schema": "aiq/training/v1", "run": Command()}, file)
    with pytest.raises(InputError, match="is no checkpoint"):
        tune(plan, net, batches(64), checkpoint=file)
    assert "let in" not in capsys.readouterr().out


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(8, 8)

    def forward(self, x):
        return self.one(self.one(x.flatten(1)[:, :8]).relu())


def nothing(output, targets):
    return torch.zeros(())


@pytest.mark.usefixtures("exported_once")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs is 0; give at least one"),
        ({"epochs": 1.5}, "epochs is 1.5; give a number of epochs, an integer"),
        ({"lr": 0}, "lr is 0; give a finite number above 0"),
        ({"lr": float("nan")}, "lr is nan; give a number"),
        ({"weight_decay": -1}, "weight_decay is -1; give a finite number of 0 or more"),
        ({"seed": -1}, "seed is -1; give a seed, an integer of 0 or more"),
        ({"seed": 2**70}, "seed has more than 63 bits"),
        ({"schedule": lambda done: "x"}, "schedule returned 'x'; return a finite factor"),
        ({"schedule": lambda done: torch.nan}, "schedule returned nan; return a finite factor"),
        ({"optimizer": "adm"}, "optimizer is 'adm'; did you mean 'adam'"),
        ({"optimizer": lambda groups: None}, "return a torch.optim.Optimizer"),
        ({"schedule": "cosin"}, "schedule is 'cosin'; did you mean 'cosine'"),
        ({"loss": "mse"}, "loss is 'mse'; give a function"),
        ({"loss": nothing}, "The loss is no single number with a gradient"),
        ({"loss": lambda output, targets: output.nothing}, "The loss raised AttributeError"),
        ({"loss": lambda output, targets: output.sum() * torch.nan}, "The loss is nan in batch 0"),
        ({"checkpoint": 3}, "checkpoint is 3; give the path of a file"),
    ],
)
def test_options_that_make_no_sense_are_refused(net, plan, options, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        tune(plan, net, batches(64), **options)


@pytest.mark.usefixtures("exported_once")
def test_data_and_models_that_do_not_fit_are_refused(net, plan, tmp_path):
    x, y = toy.batch(64)
    with pytest.raises(DataError, match="Batch 0 is a Tensor without targets; let the data yield"):
        tune(plan, net, [x])
    with pytest.raises(DataError, match="without targets"):
        tune(plan, net, [(x, None)])
    with pytest.raises(DataError, match="has no batches"):
        tune(plan, net, [])
    with pytest.raises(InputError, match=r"The loss raised .*give targets that fit"):
        tune(plan, net, [(x, y[:5])])
    other = nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).eval()
    with pytest.raises(InputError, match="The plan is for another model"):
        tune(plan, other, batches(64))
    llama = replace(plan, workload=replace(plan.workload, runtime="llamacpp"))
    with pytest.raises(InputError, match=r"The plan is for llama\.cpp"):
        tune(llama, net, batches(64))
    own = replace(plan, provenance={**plan.provenance, "metric": "mine"})
    with pytest.raises(InputError, match="searched with a metric of your own"):
        tune(own, net, batches(64), validation=batches(64))
    with pytest.raises(InputError, match="cannot be written"):
        tune(plan, net, batches(64), checkpoint=tmp_path)


def test_layers_that_share_weights_are_refused():
    shared = Shared().eval()
    plan = searched(shared, [(x, y) for x, y in batches(64)], formats="w4")
    with pytest.raises(GraphError, match=r"shares one\.weight with another layer or call"):
        tune(plan, shared, batches(64))


def test_a_layer_of_zeros_is_refused_before_training():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model[2].weight.zero_()
    data = [(torch.randn(8, 4), torch.randint(4, (8,)))]
    options = {"objective": "intensity", "formats": "w4", "max_drop": 1.0, "progress": None}
    plan = aiq.search(model, HW, data, runtime=None, cache=False, **options)
    with pytest.raises(InputError, match="All weights of layer '2' are zero"):
        tune(plan, model, data)


@pytest.mark.parametrize("given", ["plan.json", None, nn.ReLU()])
def test_what_is_no_plan_is_refused(net, given):
    with pytest.raises(InputError, match=r"give one from aiq.search, or aiq.Plan.load\(path\)"):
        tune(given, net, batches(64))
