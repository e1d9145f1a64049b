"""Ratios of update times within one run on one machine; absolute times depend on the machine."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flop
from benchmarks.bench import MATMUL, MATMUL_BF16, limit, named, rate
from benchmarks.ours import ACT, OBS, Training
from benchmarks.worker import Worker, ratio, take_turns
from stratdiff import cpu
from stratdiff.training.online import sample_batch

ROOT = Path(__file__).parents[2]


def test_support_alignment_is_critics_alone(monkeypatch):
    """M critic evaluations, no network of the behaviour or energy model (docs/method.md, 4)."""
    monkeypatch.setattr(cpu, "low_precision", lambda: jnp.bfloat16)
    batch, support = 8, 4
    t = Training(
        rows=2000,
        score="support",
        batch_size=batch,
        online_steps=50,
        iql={"actor_hidden": [8], "critic_hidden": [16, 12]},
        behaviour={"widths": [16, 8], "support_actions": support},
    )

    def score(state, stored, key):
        batch = sample_batch(t.setup, state, t.data, stored, jnp.asarray(0))
        agent = t.algorithm.view(state.learned)
        return t.algorithm.score.score(state.learned.score, agent, batch, key)

    found = flop.count(score, t.one, t.stored[0], jax.random.key(0))
    actions = batch * support
    expected = {
        # Per critic: the state part once a state, the actions' part, the first action's hidden
        # layer in full, the last layer; and the others' differences in the hidden layer.
        "float32": 2 * 2 * (batch * OBS * 16 + actions * ACT * 16 + batch * 16 * 12 + actions * 12),
        "bfloat16": 2 * 2 * actions * 16 * 12,
    }
    assert found == expected


@pytest.fixture(scope="module")
def ours():
    # The usual compiler flags, not those of the tests.
    with Worker("benchmarks.ours", {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}) as worker:
        yield worker


def timings(worker, *names):
    return take_turns([(worker, name) for name in names], rounds=7, slice_seconds=0.3)


@pytest.mark.slow
def test_stratified_calql_costs_less_than_plain(ours):
    support, base = timings(ours, "calql online support", "calql online base")
    assert ratio(support, base) <= 0.85


@pytest.mark.slow
def test_stratified_iql_by_support(ours):
    support, base = timings(ours, "iql online support", "iql online base")
    assert ratio(support, base) <= 2.7  # measured 2.5 (docs/performance.md)


@pytest.mark.slow
@pytest.mark.parametrize(("base", "most"), [("iql", 1.3), ("calql", 0.75)])
def test_a_split_by_origin_needs_no_model(ours, base, most):
    origin, plain = timings(ours, f"{base} online origin", f"{base} online base")
    assert ratio(origin, plain) <= most  # measured 1.07 and 0.55


@pytest.mark.slow
@pytest.mark.parametrize("base", ["iql", "calql"])
def test_exchange_costs_what_the_ratio_does(ours, base):
    exchange, split = timings(ours, f"{base} online exchange", f"{base} online support")
    assert ratio(exchange, split) <= 1.2  # measured 1.02 and 1.04


@pytest.mark.slow
def test_calql_is_near_its_arithmetic(ours):
    update, single, half = timings(ours, "calql offline", MATMUL, MATMUL_BF16)
    assert update.median <= 1.6 * limit(update, rate(single), rate(half))


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the target is for CPU cores")
@pytest.mark.parametrize("case", ["calql offline", "iql online support"])
def test_seeds_together_cost_no_more_than_one_after_another(ours, case):
    four, one = timings(ours, named(case, seeds=[0, 1, 2, 3]), case)
    assert ratio(four, one) <= 4 * 1.05
