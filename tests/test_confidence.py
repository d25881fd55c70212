"""Confidence limits: coverage by simulation, textbook values, agreement of independent ways."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from aiq.errors import InputError
from aiq.evaluate import Evaluation
from aiq.evaluate.confidence import (
    SHARED,
    Hopeless,
    bootstrap_limit,
    covariance,
    drop_limit,
    samples_needed,
)


def evaluation(lost, won, n):
    """Return an evaluation with so many samples lost and won, of n."""
    baseline = np.ones(n)
    scores = np.ones(n)
    scores[:lost] = 0
    baseline[lost : lost + won] = 0
    return Evaluation(scores, baseline, np.zeros(n), 0.0)


def test_tangos_published_interval():
    # Tango 1998, table III: 43 lost, 0 and 1 won of 44: two-sided 95 % limits of his example (1,0)
    low = -drop_limit(evaluation(0, 1, 44), 0.975)
    assert low == pytest.approx(-0.0590, abs=5e-4)
    high = drop_limit(evaluation(1, 0, 44), 0.975)
    assert high == pytest.approx(0.1181, abs=5e-4)


def test_without_disagreement_the_limit_is_not_zero():
    z = stats.norm.ppf(0.95)
    assert drop_limit(evaluation(0, 0, 500)) == pytest.approx(z**2 / (500 + z**2))


def test_large_samples_agree_with_wald_and_bootstrap():
    e = evaluation(300, 200, 10_000)
    wald = e.drop + stats.norm.ppf(0.95) * e.drop_error
    assert drop_limit(e) == pytest.approx(wald, abs=1e-4)
    assert bootstrap_limit(e.baseline - e.scores, 0.95) == pytest.approx(wald, abs=2e-4)


@pytest.mark.parametrize(("lost", "won"), [(0.02, 0.012), (0.03, 0.03), (0.004, 0.0)])
def test_coverage(lost, won):
    rng = np.random.default_rng(0)
    counts = rng.multinomial(1000, [lost, won, 1 - lost - won], size=1500)
    limits = [drop_limit(evaluation(b, c, 1000), 0.95) for b, c, _ in counts]
    covered = np.mean(np.array(limits) >= lost - won)
    assert 0.93 <= covered <= 0.98


@given(n=st.integers(20, 500), lost=st.integers(0, 10), won=st.integers(0, 10))
def test_limits_grow_with_confidence_and_lie_above_the_drop(n, lost, won):
    e = evaluation(lost, won, n)
    limits = [drop_limit(e, c) for c in (0.5, 0.8, 0.95, 0.99)]
    assert limits == sorted(limits)
    assert limits[-1] > e.drop
    assert all(-1 <= limit <= 1 for limit in limits)


@given(lost=st.integers(0, 20), won=st.integers(0, 20))
def test_so_many_samples_are_enough(lost, won):
    e = evaluation(lost, won, 2000)
    n = samples_needed(e, 0.01)
    if e.drop >= 0.01:
        assert n is None
        return
    if n < 200_000:
        counts = round(lost * n / 2000), round(won * n / 2000)
        rounding = 1.5 / n
        assert drop_limit(evaluation(*counts, n)) == pytest.approx(0.01, abs=rounding)


def test_the_hopeless_are_stopped_and_the_others_hardly_ever():
    rng = np.random.default_rng(0)
    test = Hopeless(max_drop=0.01, calls=20, risk=0.05)

    def stopped(lost, won):
        """Return how many samples were seen before it stopped; 2,000 are all."""
        difference = rng.choice([1, -1, 0], size=2000, p=[lost, won, 1 - lost - won])
        for n in range(100, 2001, 100):
            part = difference[:n]
            if test(evaluation(int((part > 0).sum()), int((part < 0).sum()), n)):
                return n
        return 2001

    assert np.mean([stopped(0.02, 0.01) <= 2000 for _ in range(100)]) <= 0.05
    assert max(stopped(0.5, 0.0) for _ in range(50)) <= 100
    assert np.median([stopped(0.10, 0.01) for _ in range(50)]) <= 400


def test_scores_between_zero_and_one_are_bootstrapped():
    rng = np.random.default_rng(0)
    baseline = rng.random(400)
    e = Evaluation(baseline - 0.02 - 0.1 * rng.standard_normal(400), baseline, baseline, 0.0)
    assert drop_limit(e) == pytest.approx(e.drop + 1.645 * e.drop_error, abs=1e-3)
    assert drop_limit(e) == drop_limit(e), "the seed is an argument"


def test_hopeless_means_of_other_scores_are_found_early():
    rng, calls = np.random.default_rng(0), 8

    def stopped(drop):
        """Return how many of 8 samples were seen before it stopped; 9 if it did not."""
        scores = -drop - 0.1 * rng.standard_normal(calls)
        test = Hopeless(0.1, calls, risk=0.05)
        parts = (Evaluation(scores[:n], np.zeros(n), np.zeros(n), 0.0) for n in range(1, calls + 1))
        return next((n for n, part in enumerate(parts, 1) if test(part)), calls + 1)

    assert np.mean([stopped(0.1) <= calls for _ in range(400)]) <= 0.05
    assert max(stopped(2.0) for _ in range(50)) <= 5
    assert min(stopped(100.0) for _ in range(50)) == 4


@pytest.mark.parametrize("confidence", [0.3, 1.0, 95])
def test_bad_confidence(confidence):
    with pytest.raises(InputError, match=r"from 0.5 to below 1"):
        drop_limit(evaluation(1, 1, 10), confidence)


def test_plans_on_the_same_samples_are_correlated():
    """So several plans on one easy sample do not pass for several samples."""
    errors = np.array([0.01, 0.02, 0.03])
    found = covariance(errors)
    assert np.diag(found) == pytest.approx(errors**2)
    assert found[0, 1] == pytest.approx(SHARED * 0.01 * 0.02)
    assert np.linalg.eigvalsh(found).min() > 0
    # The mean of many drops on the same samples is not much surer than one of them.
    many = covariance(np.full(50, 0.01))
    assert np.sqrt(many.mean()) > 0.6 * 0.01


def test_how_many_samples_are_needed_where_one_is_enough_and_where_none_are():
    assert samples_needed(evaluation(0, 0, 20), 1.0) == 1
    assert samples_needed(evaluation(1, 0, 100), 0.01 + 1e-9) is None
