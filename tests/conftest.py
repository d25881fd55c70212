"""Settings of all tests."""

import math
from importlib import import_module

import pytest
from hypothesis import settings

from aiq import quiet

# The machine may be busy: how long an example takes is no property of the code.
settings.register_profile("aiq", deadline=None)
settings.load_profile("aiq")


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path_factory, monkeypatch):
    """Give every test an empty cache folder, so that none depends on what another one kept."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("AIQ_CACHE", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture(autouse=True)
def no_wait_for_a_quiet_machine(monkeypatch):
    """Measure at once: the machine that runs the tests may be busy."""
    monkeypatch.setattr(quiet, "MOST", math.inf)
    monkeypatch.setattr(quiet, "WINDOW", 0.0)


@pytest.fixture
def plan():
    """Return `reports.plan()`; PyTorch is loaded only for the tests that ask for it."""
    return import_module("reports").plan()


@pytest.fixture
def plans():
    return import_module("reports").plans()


@pytest.fixture
def comparison(tmp_path):
    return import_module("reports").comparison(tmp_path / "comparison.json")
