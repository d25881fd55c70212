"""A plan keeps the solver's certificate, which the independent checker verifies from the file."""

import json

import pytest
import toy
from typer.testing import CliRunner

import aiq
from aiq.cli import app
from aiq.errors import InputError
from aiq.formats import parse
from aiq.plan import certificate

DATA = [toy.batch(200, seed=1)]


@pytest.fixture(scope="module")
def model():
    return toy.train(toy.Plain)


def search(model, **options):
    given = {"objective": "intensity", "formats": "fp32,w8a8,w4a4,w2a2", "max_drop": 0.05}
    given |= {"sensitivity": "sqnr", "confidence": 0.5}
    return aiq.search(model, "t4", DATA, **given | options)


@pytest.fixture(scope="module")
def plan(model):
    return search(model)


@pytest.fixture
def document(plan):
    return json.loads(plan.to_json())


def check(document):
    return aiq.Plan.from_json(json.dumps(document)).check()


def test_the_certificate_of_a_file_is_verified(plan, document):
    assert plan.proof.status == "optimal"
    assert plan.check().ok
    found = check(document)
    assert found.ok
    assert found.bound == plan.certificate.claim.bound


def test_the_command_line_verifies_it(document, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    found = CliRunner().invoke(app, ["show", str(path), "--check"])
    assert (found.exit_code, "the certificate proves it optimal" in found.output) == (0, True)
    higher_bound(document)
    path.write_text(json.dumps(document))
    found = CliRunner().invoke(app, ["show", str(path), "--check", "--json"])
    assert found.exit_code == 1
    assert json.loads(found.output)["failures"]


def test_costs_between_layers_are_part_of_it(model):
    found = search(model, objective="throughput", runtime="openvino", formats=None)
    calibrated = aiq.search(
        model, "epyc_zen4_2vcpu", DATA, runtime="openvino", confidence=0.5, max_drop=0.05
    )
    assert found.check().ok
    assert calibrated.certificate.edges
    assert calibrated.check().ok


def other_format(document):
    document["layers"][1]["format"] = "fp32"


def other_status(document):
    document["proof"]["status"] = "time_limit"


def cheaper_elsewhere(document):
    document["certificate"]["cost"][0] = [1, 1, 1, 1]


def higher_bound(document):
    claim = document["certificate"]["claim"]
    claim["bound"] += 1


def no_proof(document):
    document["certificate"]["claim"]["proof"] = []


def other_decisions(document):
    document["certificate"]["decisions"] = [0, 0, 9]


@pytest.mark.parametrize(
    "forge",
    [other_format, other_status, cheaper_elsewhere, higher_bound, no_proof, other_decisions],
)
def test_a_forged_plan_is_not_accepted(document, forge):
    forge(document)
    found = check(document)
    assert not found.ok
    assert found.failures


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cost", []),
        ("cost", [[1, 2], [3]]),
        ("size", [[1]]),
        ("edges", [{"source": 0, "target": 7, "cost": [1], "drop": []}]),
        ("edges", [{"source": 0, "target": 1, "cost": [1], "drop": []}]),
        ("edges", [{"source": 0, "target": 0, "cost": [0] * 16, "drop": []}]),
        ("drop", [[2**62] * 4] * 3),
    ],
)
def test_a_problem_that_is_none_is_refused(document, key, value):
    document["certificate"][key] = value
    with pytest.raises(InputError):
        check(document)


@pytest.mark.parametrize(
    "options", [{"method": "greedy", "sensitivity": "measured"}, {"objective": "weighted"}]
)
def test_searches_without_a_certificate_say_so(model, options):
    with pytest.raises(InputError, match="keeps no certificate"):
        search(model, **options).check()


def test_a_certificate_that_is_too_large_is_not_kept(model, monkeypatch):
    monkeypatch.setattr(certificate, "MOST_NUMBERS", 10)
    assert search(model).certificate is None


def test_of_plans_of_equal_cost_the_finest_is_the_cheapest(model):
    # Both formats move the same bytes, and only one rounds what is between layers.
    for formats in ("w8a8,w8a8bf16", "w8a8bf16,w8a8"):
        plan = search(model, formats=formats, max_drop=0.5)
        assert plan.proof.cheapest
        assert set(plan.formats.values()) == {parse("w8a8")}
        assert plan.check().ok


def test_the_seed_reaches_the_bootstrap(model):
    def limit(seed):
        found = search(
            model, metric="cosine", formats="w4a4", max_drop=0.9, confidence=0.95, seed=seed
        )
        return found.accuracy.drop_limit

    first, second = limit(0), limit(1)
    assert first == limit(0) != second
    assert second == pytest.approx(first, rel=0.05)
