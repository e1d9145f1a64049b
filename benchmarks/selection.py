"""What does a split select? `python -m benchmarks.selection RUN [RUN ...]`.

Takes finished runs, makes batches of what is in their replay buffers and as many rows of D_off,
splits them as the next update would, and says what the rows of each origin and stratum are like: a
table of mean ranks (0: the lowest of all rows, 1: the highest, so 0.5 without any selection) with
standard errors over seeds.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy.stats import rankdata

from benchmarks.bench import markdown
from stratdiff.algorithm import State, StratDiff
from stratdiff.config import read_config
from stratdiff.data import sources
from stratdiff.data.batch import Batch
from stratdiff.data.device import DeviceData, to_device
from stratdiff.errors import UserError
from stratdiff.scores.support import support_alignment
from stratdiff.tasks import find_task
from stratdiff.training.checkpoint import FOLDER, Checkpoints
from stratdiff.training.setup import make_setup, reward_scale
from stratdiff.training.state import Setup, TrainState

CANDIDATES = 16
"""Actions of the policy whose mean Q̄ an action's advantage is relative to."""
FEATURES = {
    "age": "how long ago the row was stored; rows of D_on only",
    "return": "its return-to-go, where the episode is over",
    "advantage": f"Q̄(s, a) minus the mean Q̄ of {CANDIDATES} actions of the policy",
    "Q": "Q̄(s, a)",
    "log π": "the policy's log-density of the action",
    "log μ": "that of the behaviour model, from its unweighted support actions",
}
KINDS = ("D_off, conservative", "D_off, online-like", "D_on, conservative", "D_on, online-like")


def main() -> int:
    """Print a table for each run, and what its columns are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    try:
        for path in parser.parse_args().runs:
            print(f"{path}\n\n{table(measure(path))}\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(f"{name}: {what}." for name, what in FEATURES.items()))
    return 0


def measure(path: Path) -> dict[str, np.ndarray]:
    """By feature, and for "share": its mean rank in each of `KINDS`, [seeds, kinds].

    NaN where a kind has no rows.

    Raises:
        UserError: no run, or one that is not finished.
    """
    setup, states, data = read(path)
    half = setup.batch_size // 2
    found = []
    for i in range(len(states.seed)):
        state = jax.tree.map(lambda x, i=i: x[i], states)
        if (size := int(state.replay.size)) < half:
            raise UserError(
                f"the run {str(path)!r} has stored {size} transitions, and half a batch is {half}; "
                "give a run with more."
            )
        rows = scored(setup.algorithm, state, data, half)
        found.append(_summary({name: np.asarray(value) for name, value in rows.items()}))
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def read(path: Path) -> tuple[Setup, TrainState, DeviceData]:
    """A finished run as it ended: what is static, the state of all seeds, and D_off.

    Raises:
        UserError: no run, one that is not finished, or one without checkpoints.
    """
    if not (path / "summary.json").exists():
        raise UserError(f"{str(path)!r} is no finished run: it has no summary.json.")
    if not (path / FOLDER).is_dir():
        raise UserError(f"the run {str(path)!r} has no checkpoints, and so no replay buffer.")
    config = read_config(path / "config.json")
    dataset = sources.load(config.dataset, config.environment)
    setup, units = make_setup(config, find_task(config.environment), reward_scale(config, dataset))
    training, _ = dataset.hold_out(config.validation_fraction)
    sparse = config.recipe == "antmaze"
    discount = setup.algorithm.agent.discount
    data = to_device(training, units.scale, units.shift, discount, sparse, config.normalize_states)
    checkpoints = Checkpoints(
        path / FOLDER, {"online", *(p.name for p in setup.algorithm.phases())}
    )
    try:
        found = checkpoints.restore(setup.init(config.seeds))
    finally:
        checkpoints.close()
    if found is None:
        raise UserError(f"the run {str(path)!r} has no checkpoints, and so no replay buffer.")
    return setup, found[0], data


def table(measured: dict[str, np.ndarray]) -> str:
    """Mean and standard error over seeds, a row for each kind."""

    def cell(values: Float[np.ndarray, " seeds"]) -> str:
        known = values[np.isfinite(values)]
        if len(known) == 0:
            return "–"
        if len(known) == 1:
            return f"{known[0]:.3f}"
        return f"{known.mean():.3f} ± {known.std(ddof=1) / len(known) ** 0.5:.3f}"

    names = [name for name, values in measured.items() if np.isfinite(values).any()]
    lines = [[kind, *(cell(measured[n][:, k]) for n in names)] for k, kind in enumerate(KINDS)]
    return markdown(["rows", *names], lines)


def scored(
    algorithm: StratDiff, state: TrainState, data: DeviceData, half: int
) -> dict[str, Array]:
    """The features of all rows of batches of `half` rows of D_off and `half` of D_on.

    With "online" and "conservative", what they are and become; each [batches * 2 * half]. Of D_on
    as many rows as fill whole batches, at random.
    """
    return _in_batches(algorithm, half, int(state.replay.size), state, data)


# Compiled once for all seeds of a run.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _in_batches(
    algorithm: StratDiff, half: int, size: int, state: TrainState, data: DeviceData
) -> dict[str, Array]:
    keys, replay, learned = jax.random.split(jax.random.key(0), 3), state.replay, state.learned
    n = size // half
    kept = jax.random.permutation(keys[0], size)[: n * half].reshape(n, half)
    drawn = data.sample_index(keys[1], n * half).reshape(n, half)

    def batch(on: Any, off: Any, key: Any) -> dict[str, Array]:
        offline = data.take(off)
        stored = algorithm.score.store(learned.score, offline.obs, jax.random.split(key, half))
        rows, kept_with = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]),
            (offline, stored),
            (replay.take(on), jax.tree.map(lambda x: x[on], replay.stored)),
        )
        online = jnp.arange(2 * half) >= half
        age = jnp.where(online, jnp.concatenate([off, replay.inserted - on]), jnp.nan)
        return features(algorithm, learned, Batch(rows, kept_with, online), key) | {"age": age}

    found = jax.lax.map(lambda x: batch(*x), (kept, drawn, jax.random.split(keys[2], n)))
    return {name: value.reshape(-1) for name, value in found.items()}


def features(
    algorithm: StratDiff, learned: State, batch: Batch, key: jax.Array
) -> dict[str, Array]:
    """What the rows of a batch are like, and on which side the split puts them."""
    keys = jax.random.split(key, 2)
    rows, view = batch.transitions, algorithm.view(learned)
    prepared = algorithm.score.prepare(learned.score, view, batch)
    score = algorithm.score.score(prepared, view, batch, keys[0])
    _, strata, _ = algorithm.split(learned.split, score, batch.online)
    place = jnp.arange(len(score))
    conservative = jnp.zeros(len(score), bool)
    conservative = conservative.at[place[strata.order]].set(place < strata.conservative)
    draw = jax.vmap(lambda key: view.policy.sample(rows.obs, key), out_axes=1)
    actions = draw(jax.random.split(keys[1], CANDIDATES))
    q = view.q(rows.obs, jnp.concatenate([rows.action[:, None], actions], axis=1))
    return {
        "online": batch.online,
        "conservative": conservative,
        "return": rows.mc_return,
        "advantage": q[:, 0] - q[:, 1:].mean(1),
        "Q": q[:, 0],
        "log π": view.policy.log_prob(rows.obs, rows.action),
        "log μ": _log_behaviour(rows.action, batch.stored),
    }


def _log_behaviour(action: Float[Array, "batch act"], stored: PyTree) -> Float[Array, " batch"]:
    if not isinstance(stored, jax.Array):
        return jnp.full(len(action), jnp.nan)
    return -support_alignment(action, stored, jnp.zeros(stored.shape[:-1]))


def _summary(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The share of each of `KINDS` in a batch, and the mean rank of each feature among its rows."""
    online, conservative = rows["online"], rows["conservative"]
    kinds = [~online & conservative, ~online & ~conservative]
    kinds += [online & conservative, online & ~conservative]
    out = {"share": np.array([kind.mean() for kind in kinds])}
    for name in FEATURES:
        known = np.isfinite(rows[name])
        rank = np.full(len(known), np.nan)
        if known.any():
            rank[known] = (rankdata(rows[name][known]) - 0.5) / known.sum()
        out[name] = np.array([_mean(rank[kind & known]) for kind in kinds])
    return out


def _mean(values: Float[np.ndarray, " n"]) -> float:
    return float(values.mean()) if len(values) else np.nan


if __name__ == "__main__":
    sys.exit(main())
