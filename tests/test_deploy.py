"""Deployed networks are as accurate as their simulation, in every runtime."""

import pytest
import torch
from processor import rounded

import aiq
from aiq import data, models
from aiq.errors import InputError
from aiq.formats import WeightRounding, parse
from aiq.graph import trace
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe

IMAGES = 500


class Chosen:
    """What `deploy` reads of a plan."""

    def __init__(self, formats):
        self.formats = formats
        self.batch_dim = 0
        self.rounding = WeightRounding.NEAREST
        self.workload = None
        self.learned = None


@pytest.fixture(scope="module", params=["resnet20"])
def simulated(request):
    """Return a trained network, its inputs, and the logits of its simulation in w8a8."""
    model = models.load(request.param)
    images, labels = next(iter(data.batches(data.sample("test"), IMAGES)))
    calibration = [x for x, _ in data.batches(data.sample("train"), 100)][:5]
    folded = fold(trace(model, images))
    simulator = Simulator(folded, observe(folded, calibration))
    plan = Chosen({layer.name: parse("w8a8") for layer in simulator.layers})
    with torch.no_grad():
        logits = simulator.run(images, dict.fromkeys(plan.formats, rounded("w8a8")))
    return model, images, labels, calibration, plan, logits


@pytest.mark.parametrize("runtime", ["inductor", "onnxruntime", "openvino"])
def test_a_deployed_network_is_as_accurate_as_simulated(runtime, simulated):
    model, images, labels, calibration, plan, logits = simulated
    program = aiq.deploy(
        plan, model, example_inputs=images, calibration=calibration, runtime=runtime
    )
    assert program.mismatches == ()
    deployed = program(images)
    right, expected = ((x.argmax(1) == labels).sum().item() for x in (deployed, logits))
    assert abs(right - expected) <= 0.005 * IMAGES
    assert (deployed - logits).norm() <= 0.1 * logits.norm()


def test_calibration_is_asked_for(simulated):
    model, images, *_, plan, _ = simulated
    with pytest.raises(InputError, match="pass batches of inputs as `calibration`"):
        aiq.deploy(plan, model, example_inputs=images)
