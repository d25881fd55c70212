"""Searches that take turns with training."""

from functools import partial

import pytest
import toy
from trainable import HW, Residual, batches, searched

import aiq
from aiq.errors import InputError


@pytest.fixture(scope="module")
def net():
    return toy.train(Residual)


def test_search_and_training_take_turns(net):
    seen = {"training": 0, "validation": 0}

    class Counted(list):
        def __init__(self, name, data):
            super().__init__(data)
            self.name = name

        def __iter__(self):
            seen[self.name] += 1
            return super().__iter__()

    formats, validation = "fp32,w8a8,w4a4,w3a3,w2a2", batches(200, seed=1, noise=0.7)
    options = {"confidence": 0.5, "cache": False, "runtime": None, "sensitivity": "kl"}
    found = aiq.finetune_search(
        net,
        HW,
        Counted("training", batches(noise=0.7)),
        Counted("validation", validation),
        formats=formats,
        max_drop=0.02,
        stride=0.3,
        rounds=2,
        training=aiq.TrainingOptions(epochs=5, lr=0.01),
        search_options=options,
        progress=None,
    )
    kept = [one for one in found.rounds if one.kept]
    assert kept
    assert found.best is kept[-1].trained
    reached = [one.trained.plan.predicted.intensity for one in kept]
    assert reached == sorted(set(reached))
    for one in found.rounds:
        accuracy = one.trained.plan.accuracy
        assert one.kept == (accuracy.drop_limit <= 0.02)
        assert accuracy.baseline == found.rounds[0].trained.plan.accuracy.baseline
        assert accuracy.samples == 200
    untrained = searched(net, validation, formats=formats, max_drop=0.02, **options)
    assert reached[-1] > untrained.predicted.intensity
    assert seen["training"] >= 5 * len(found.rounds)
    assert found.stopped


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"training": {"epochs": 2}}, "training is a dict; give aiq.TrainingOptions"),
        ({"search_options": {"foo": 1}}, "search_options names foo, which aiq.search does not"),
        ({"search_options": [1]}, "search_options is a list"),
        ({"stride": -1}, "stride is -1"),
        ({"rounds": 1.5}, "rounds is 1.5"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_options_of_a_search_of_training_are_checked_first(net, options, said):
    with pytest.raises(InputError, match=said):
        aiq.finetune_search(net, HW, batches(64), batches(64), progress=None, **options)


def test_a_search_of_training_refuses_what_it_sets_itself(net):
    with pytest.raises(InputError, match="search_options names max_drop, which"):
        aiq.finetune_search(
            net, HW, batches(64), batches(64), search_options={"max_drop": 0.1}, progress=None
        )
    search = partial(aiq.finetune_search, net, HW, batches(64), batches(64), progress=None)
    with pytest.raises(InputError, match="max_drop is 1, and 1 means 100"):
        search(max_drop=1)
    with pytest.raises(InputError, match="rounds is 0; give at least one"):
        search(rounds=0)
    with pytest.raises(InputError, match="stride is 0; give a finite number above 0"):
        search(stride=0)
