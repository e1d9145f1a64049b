"""Fine-tunes with a score at ρ = 1 and with none, and prints which agents have the same bits.

`python rho_one.py iql:guided calql:random ...`. test_algorithm.py starts it as a process of its own
that has the compiler flags of users, because tests run with optimisation off.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from stratdiff.config import make_config
from stratdiff.data.batch import Transition
from stratdiff.data.dataset import from_arrays
from stratdiff.data.device import to_device
from stratdiff.training.online import Loop
from stratdiff.training.state import Setup

OBS, ACT, ROWS, STEPS, WARMUP = 5, 3, 400, 8, 3
SEEDS = (0, 7)
HIDDEN = (32, 32)
OPTIONS = {
    "env": "none",
    "recipe": "locomotion",
    "batch_size": 32,
    "rho": 1.0,
    "iql": {"actor_hidden": HIDDEN, "critic_hidden": HIDDEN},
    "calql": {"actor_hidden": HIDDEN, "critic_hidden": HIDDEN, "sampled_actions": 4},
    "rebrac": {"actor_hidden": HIDDEN, "critic_hidden": HIDDEN},
    "behaviour": {"widths": (16, 8), "support_actions": 4, "solver_steps": 2},
    "energy": {"hidden": (16, 16)},
}


def make_data():
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(ROWS, OBS)),
        "actions": rng.uniform(-1, 1, (ROWS, ACT)),
        "rewards": rng.normal(size=ROWS),
        "terminals": np.zeros(ROWS),
        "timeouts": np.arange(ROWS) % 50 == 49,
    }
    dataset = from_arrays("noise", {k: np.asarray(v, np.float32) for k, v in arrays.items()})
    return to_device(dataset, 1.0, 0.0, 0.99, sparse=False)


def transition(step):
    rng = np.random.default_rng(step)
    n = len(SEEDS)
    return Transition(
        obs=rng.normal(size=(n, OBS)).astype(np.float32),
        action=rng.uniform(-1, 1, (n, ACT)).astype(np.float32),
        reward=rng.normal(size=n).astype(np.float32),
        next_obs=rng.normal(size=(n, OBS)).astype(np.float32),
        terminal=np.zeros(n, bool),
        mc_return=np.full(n, -np.inf, np.float32),
    )


def fine_tuned(base, score, data):
    """(the agent's arrays after a few online steps, metrics of the last)."""
    algorithm = make_config(base=base, score=score, **OPTIONS).algorithm(OBS, ACT, 1.0)
    setup = Setup(
        algorithm=algorithm,
        obs_dim=OBS,
        action_dim=ACT,
        batch_size=32,
        offline_rows=(16, 16),
        frozen=0,
        warmup=WARMUP,
        utd=2,
        capacity=STEPS,
        horizon=STEPS,
        failure_reward=None,
    )
    state = setup.init(SEEDS)
    shapes = setup.stored_shapes(jax.tree.map(lambda x: x[0], state.learned))
    rng = np.random.default_rng(1)
    stored = jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(-1, 1, (len(SEEDS), len(data), *x.shape)), x.dtype),
        shapes,
    )
    loop = Loop(setup, state, data, stored)
    for step in range(STEPS):
        new = transition(step)
        loop.step(new, new.next_obs, step)
    metrics = loop.take_total().sums
    return [np.asarray(x) for x in jax.tree.leaves(loop.state.learned.agent)], metrics


def main(pairs):
    data, found, plain = make_data(), {}, {}
    for base, score in (pair.split(":") for pair in pairs):
        if base not in plain:
            plain[base], _ = fine_tuned(base, "none", data)
        agent, metrics = fine_tuned(base, score, data)
        both = zip(agent, plain[base], strict=True)
        found[f"{base}:{score}"] = {
            "arrays": len(agent),
            "different": sum(a.tobytes() != b.tobytes() for a, b in both),
            "split": "alignment_auc" in metrics,
            "finite": all(np.isfinite(a).all() for a in agent),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
