"""StratDiff's update and phases with parts that tell what they were given; ρ = 1 is the base."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import pytest

from stratdiff.agents.base import ActorCritic
from stratdiff.agents.iql import IQLConfig
from stratdiff.algorithm import Keys, State, StratDiff
from stratdiff.data.batch import Batch, Transition
from stratdiff.data.device import DeviceData
from stratdiff.phases import Phase, StorePhase
from stratdiff.scores.base import Stateless
from stratdiff.splits import Ratio, RatioOptions, Rows, SplitRule

BATCH = 6
KEYS = Keys(*jax.random.split(jax.random.key(0), 3))
REWARDS = [5.0, 1.0, 3.0, 0.0, 4.0, 2.0]


@dataclasses.dataclass(frozen=True)
class TellingAgent(ActorCritic):
    """Its state is a number w, 1 more after every update; Q = w Σ a."""

    options, name, title = IQLConfig, "telling", "Telling"
    online_options: ClassVar = ("online_expectile",)
    offline_steps: int = 70

    def init(self, key):
        return {"w": jnp.full((), 2.0)}

    def update(self, state, batch, key, conservative):
        told = {
            "conservative": jnp.asarray(conservative, float),
            "drawn": jax.random.uniform(key),
            **{f"row{i}": batch.reward[i] for i in range(BATCH)},
        }
        return {"w": state["w"] + 1}, told

    def policy(self, state):
        return TellingActor(state["w"])

    def support_q(self, state, obs, support):
        return state["w"] * support.sum(-1)


@dataclasses.dataclass(frozen=True)
class TellingActor:
    w: Any

    def mode(self, obs):
        return obs

    def sample(self, obs, key):
        return obs


class TellingScore(Stateless):
    """The score is the reward; it learns the mean Q that it is shown."""

    name, title = "telling", "Telling"

    def init(self, keys):
        return {"seen": jnp.zeros(())}

    def phases(self):
        def update(state, data, stored, key):
            own, agent = state
            return own["seen"] + agent.policy.w, {}

        return (
            Phase("first", 5, update, "seen", ("one",)),
            StorePhase("second", ("two",), ("first",)),
        )

    def score(self, state, agent, batch, key):
        return batch.transitions.reward + 0 * jax.random.uniform(key)

    def update(self, state, agent, batch, key):
        q = agent.q(batch.transitions.obs, batch.stored)
        told = {"score_drawn": jax.random.uniform(key)}
        return {"seen": q.mean()}, told


class BelowThree(SplitRule):
    """Conservative where the score is below 3; it counts the batches."""

    options, name = RatioOptions, "below"

    def init(self):
        return jnp.zeros(())

    def __call__(self, state, score, online):
        order = jnp.argsort(score >= 3, stable=True)
        return state + 1, Rows(order, (score < 3).sum()), {"online_rows": online.sum() * 1.0}


def make(split, **options):
    agent, score = TellingAgent(IQLConfig(), 2, 2), TellingScore(None, 2, 2)
    return StratDiff(agent, score, split, 4, **options)


def make_batch():
    transitions = Transition(
        obs=jnp.zeros((BATCH, 2)),
        action=jnp.zeros((BATCH, 2)),
        reward=jnp.array(REWARDS),
        next_obs=jnp.zeros((BATCH, 2)),
        terminal=jnp.zeros(BATCH, bool),
        mc_return=jnp.zeros(BATCH),
    )
    return Batch(transitions, jnp.ones((BATCH, 3, 2)), jnp.arange(BATCH) >= 3)


def updated(algorithm):
    state = algorithm.init(jax.random.key(1))
    return jax.jit(lambda s, b: algorithm.update(s, b, KEYS))(state, make_batch())


def rows_told(metrics):
    return [float(metrics[f"row{i}"]) for i in range(BATCH)]


def test_update_scores_splits_and_hands_the_rows_to_the_agent():
    new, metrics = updated(make(Ratio(RatioOptions(0.5)), q_divisor=10.0))
    # The three lowest of the scores first; each stratum in the order of the batch.
    assert rows_told(metrics) == [1.0, 0.0, 2.0, 5.0, 3.0, 4.0]
    assert metrics["conservative"] == 3
    assert new.agent["w"] == 3
    # The score saw the agent as it was, in reference units: (2 · (1 + 1)) / 10.
    assert new.score["seen"] == pytest.approx(0.4)
    # Rows 3, 4 and 5 are from D_on; 3 and 5 are called offline-like, 0 and 2 online-like.
    assert metrics["exchange_count"] == 4
    # Every part has a key of its own.
    assert metrics["drawn"] == pytest.approx(float(jax.random.uniform(KEYS.agent)))
    assert metrics["score_drawn"] == pytest.approx(float(jax.random.uniform(KEYS.score_update)))


def test_a_split_may_say_how_many_rows_by_the_data():
    new, metrics = updated(make(BelowThree(None)))
    assert rows_told(metrics) == [1.0, 0.0, 2.0, 5.0, 3.0, 4.0]
    assert (metrics["conservative"], metrics["online_rows"], new.split) == (3, 3, 1)


def test_phases_are_the_base_and_then_those_of_the_score():
    algorithm = make(Ratio(RatioOptions()))
    base, first, second = algorithm.phases()
    assert [p.name for p in (base, first, second)] == ["base", "first", "second"]
    assert (base.part, first.part) == ("agent", "score.seen")
    assert (base.steps, first.steps) == (70, 5)
    assert base.acts and not first.acts
    assert (base.after, first.after, second.after) == ((), (), ("first",))
    # What only the online phase reads is no reason to train again.
    assert "telling.expectile" in base.reads and "base" in base.reads
    assert "telling.online_expectile" not in base.reads
    # The score's update is shown its own state and the agent.
    state = State({"w": jnp.full((), 7.0)}, {"seen": jnp.full((), 0.5)}, ())
    data = object.__new__(DeviceData)  # it looks at none
    assert first.update(state, data, None, KEYS.agent) == (7.5, {})


def check_rho_one(pairs):
    """No conservative row is missing at ρ = 1, so the agent has the bits of plain fine-tuning.

    With the compiler flags that users have: sums round by how the compiler fuses them.
    """
    script = Path(__file__).with_name("rho_one.py")
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), *pairs]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert [*found] == pairs
    for pair, told in found.items():
        assert told["split"] and told["finite"] and told["arrays"] > 40, pair
        assert told["different"] == 0, f"{pair}: {told['different']} of {told['arrays']} arrays"


def test_rho_1_is_the_base_algorithm_bit_for_bit():
    check_rho_one(["iql:random"])


@pytest.mark.slow
def test_rho_1_is_the_base_algorithm_bit_for_bit_whatever_the_score():
    scores = ("random", "guided", "support")
    check_rho_one([f"{b}:{s}" for b in ("iql", "calql", "rebrac") for s in scores])
