"""How well does each alignment score order a batch? `python -m benchmarks.ordering [--small]`.

Trains IQL, a behaviour model and an energy model on `stratdiff/halfcheetah-medium-replay` with the
package's own functions. One half of a batch is transitions of that set, which the snapshots up to
"medium" collected; the other half is "online" transitions that the last snapshot, which is not in
the set, collects in the environment. Every score of the batch is compared with references that are
too slow to train with, at guidance scales w = 3 and w = 0.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import rankdata, spearmanr

from stratdiff.algorithm import State, StratDiff
from stratdiff.config import make_config
from stratdiff.data import hdf5
from stratdiff.data.dataset import Dataset
from stratdiff.data.device import DeviceData, to_device
from stratdiff.data.made import recipes, store
from stratdiff.diffusion.behaviour import BehaviourModel
from stratdiff.diffusion.sampler import Solver, guided
from stratdiff.files import write_text
from stratdiff.policy import Policy
from stratdiff.scores.guided import guided_alignment
from stratdiff.scores.support import support_alignment, support_std
from stratdiff.splits import offline_like_count
from stratdiff.tasks import find_task, make_env
from stratdiff.training import pretrain
from stratdiff.training.setup import make_setup, reward_scale
from stratdiff.training.state import TrainState
from stratdiff.training.summary import versions

DATASET = "stratdiff/halfcheetah-medium-replay"
SCALES = (3.0, 0.0)
SUPPORTS = (4, 8, 16, 32)
DEFAULT, BFLOAT = "guided 15 multistep", "guided 15 multistep bf16"
OTHER_NOISE = "guided, other noise"
ACCURATE = ("guided 15 singlestep", "guided 50 multistep", "guided 51 singlestep")
REFERENCES = {
    "kernel": "kernel density of unguided samples weighted by exp(w β Q̄): -log π_0(a|s)",
    "guided density": "kernel density of guided samples",
    "guided distance": "mean distance to guided samples: the mean of the `guided` score",
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Lengths of training and of the comparison: the whole in ten minutes on two cores."""

    rows: int | None = None
    """Rows of the data set; None: all of its recipe."""
    base_steps: int = 8000
    behaviour_steps: int = 6000
    energy_steps: int = 6000
    energy_batch: int = 64
    energy_rate: float = 1e-3
    pool: int = 8192
    """Transitions that the energy model is trained on: supports of all would take too long."""
    hidden: tuple[int, ...] = (256, 256)
    widths: tuple[int, ...] = (128, 64, 32)
    energy_hidden: tuple[int, ...] = (128, 128, 128)
    training_batch: int = 256
    chunk: int = 1000
    online_episodes: int = 10
    batch: int = 256
    batches: int = 24
    reference_samples: int = 128
    """Unguided samples a state of the reference `kernel`."""
    guided_samples: int = 32
    """Guided samples a state of the other references."""
    reference_steps: int = 50
    solvers: tuple[tuple[int, Solver], ...] = (
        (15, "multistep"),
        (5, "multistep"),
        (6, "multistep"),
        (8, "multistep"),
        (15, "singlestep"),
        (50, "multistep"),
        (51, "singlestep"),
    )
    """(evaluations, solver) of the guided scores of one noise; the first is the default."""
    block: int = 8
    """States whose reference samples are drawn together: their layers' values stay in cache."""


SMALL = Sizes(
    rows=4000,
    base_steps=200,
    behaviour_steps=400,
    energy_steps=100,
    pool=1024,
    hidden=(32, 32),
    widths=(32, 16),
    energy_hidden=(32, 32),
    training_batch=64,
    chunk=100,
    online_episodes=1,
    batch=64,
    batches=2,
    reference_samples=32,
    guided_samples=16,
    block=16,
    solvers=((15, "multistep"), (5, "multistep"), (50, "multistep")),
)


class Clock:
    """Seconds of every part, told as they pass."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def tick(self, part: str) -> None:
        now = time.monotonic()
        self.seconds[part] = round(now - self._last, 1)
        self._last = now
        print(f"{part}: {self.seconds[part]} s", flush=True)


def load(sizes: Sizes) -> Dataset:
    """The data set, made on first use."""
    return hdf5.read(store.make(DATASET, size=sizes.rows), name=DATASET)


def train(sizes: Sizes, data: Dataset, clock: Clock) -> tuple[StratDiff, State, DeviceData]:
    """IQL, behaviour model, energy model; the state of the one seed and the data."""
    config = make_config(
        "paper",
        dataset=DATASET,
        base="iql",
        score="guided",
        offline_steps=sizes.base_steps,
        behaviour_steps=sizes.behaviour_steps,
        energy_steps=sizes.energy_steps,
        online_steps=1,
        batch_size=sizes.training_batch,
        iql={"actor_hidden": sizes.hidden, "critic_hidden": sizes.hidden},
        behaviour={
            "widths": sizes.widths,
            "batch_size": sizes.training_batch,
            "learning_rate": 3e-4,
        },
        energy={
            "hidden": sizes.energy_hidden,
            "batch_size": sizes.energy_batch,
            "learning_rate": sizes.energy_rate,
        },
    )
    task = find_task(str(data.env_id))
    setup, units = make_setup(config, task, reward_scale(config, data))
    discount = setup.algorithm.agent.discount
    whole = to_device(data, units.scale, units.shift, discount, False)

    def phase(
        name: str, state: TrainState, data: DeviceData, stored: Any, length: int
    ) -> TrainState:
        for first in range(0, length, sizes.chunk):
            state, total = pretrain.run_steps(
                setup, name, state, data, stored, jnp.asarray(first), sizes.chunk
            )
        means = {k: float(v[0] / total.count[0]) for k, v in total.sums.items()}
        print({k: round(v, 4) for k, v in means.items()}, flush=True)
        clock.tick(name)
        return state

    state = phase("base", setup.init(config.seeds), whole, (), sizes.base_steps)
    state = phase("behaviour", state, whole, (), sizes.behaviour_steps)
    pool = np.random.default_rng(1).permutation(len(data))[: sizes.pool]
    part = eqx.tree_at(lambda d: d.rows, whole, whole.rows[jnp.asarray(pool)])
    *_, (_, stored) = pretrain.store_all(setup, "support", state, part)
    clock.tick("support")
    state = phase("energy", state, part, stored, sizes.energy_steps)
    return setup.algorithm, jax.tree.map(lambda x: x[0], state.learned), whole


def online_rows(episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """States and stochastic actions of the last snapshot of HalfCheetah."""
    policy = Policy.load(recipes.SNAPSHOTS / "halfcheetah.safetensors")[-1:]
    env, rng = make_env("HalfCheetah-v4"), np.random.default_rng(2)
    states, actions = [], []
    for episode in range(episodes):
        obs, _ = env.reset(seed=1000 + episode)
        ended = False
        while not ended:
            noise = rng.standard_normal((1, 1, 6), np.float32)
            states.append(obs.astype(np.float32))
            actions.append(policy.sample(states[-1][None, None], noise)[0, 0].astype(np.float32))
            obs, _, terminated, truncated, _ = env.step(actions[-1])
            ended = terminated or truncated
    env.close()
    return np.stack(states), np.stack(actions)


def model(algorithm: StratDiff, **options: Any) -> BehaviourModel:
    """The behaviour model with other sampling options."""
    usual = algorithm.score.model
    return dataclasses.replace(usual, config=dataclasses.replace(usual.config, **options))


def draw(
    behaviour: BehaviourModel, state: State, obs: jax.Array, noise: jax.Array, scale: float
) -> jax.Array:
    """Guided actions from noise: one a state, or several with a middle axis of samples."""
    several = noise.ndim == 3
    states = obs[:, None] if several else obs
    score = behaviour.score(state.score.behaviour.ema, states)
    if scale > 0:
        net = behaviour.for_sampling(state.score.energy.net)
        score = guided(score, lambda a, t: net(states, a, t), scale)
    return behaviour.sample(score, noise)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def draw_many(
    behaviour: BehaviourModel,
    state: State,
    obs: jax.Array,
    key: jax.Array,
    action: jax.Array,
    samples: int,
    options: tuple[float, int],
) -> jax.Array:
    """`samples` actions a state, some states at a time; options: guidance scale, states."""
    scale, block = options
    noise = jax.random.normal(key, (len(obs), samples, action.shape[-1]))
    parts = (len(obs) // block, block)
    actions = jax.lax.map(
        lambda x: draw(behaviour, state, x[0], x[1], scale),
        tuple(x.reshape(*parts, *x.shape[1:]) for x in (obs, noise)),
    )
    return actions.reshape(noise.shape)


@functools.partial(jax.jit, static_argnums=(0, 4))
def guided_score(
    behaviour: BehaviourModel,
    state: State,
    rows: tuple[jax.Array, jax.Array],
    noise: jax.Array,
    scale: float,
) -> jax.Array:
    """The `guided` alignment of one sample a state."""
    obs, action = rows
    return guided_alignment(action, draw(behaviour, state, obs, noise, scale))


def exact_q(algorithm: StratDiff, state: State, obs: jax.Array, actions: jax.Array) -> jax.Array:
    """Q̄ of several actions of each state in float32, in reference reward units."""
    return algorithm.agent.q(state.agent, obs[:, None], actions) / algorithm.q_divisor


@functools.partial(jax.jit, static_argnums=(0, 4))
def support_score(
    algorithm: StratDiff,
    state: State,
    rows: tuple[jax.Array, jax.Array],
    support: jax.Array,
    options: tuple[float, bool],
) -> tuple[jax.Array, jax.Array]:
    """(the `support` alignment, the weights); options: guidance scale, exact float32 Q."""
    obs, action = rows
    scale, exact = options
    q = exact_q(algorithm, state, obs, support) if exact else algorithm.view(state).q(obs, support)
    weighted = scale * algorithm.score.config.inverse_temperature * q
    score = support_alignment(action, support, weighted)
    return score, jax.nn.softmax(weighted)


@functools.partial(jax.jit, static_argnums=0)
def draw_support(
    behaviour: BehaviourModel, state: State, obs: jax.Array, key: jax.Array
) -> jax.Array:
    """Support actions, as many as the model's config says."""
    return behaviour.support(state.score.behaviour, obs, jax.random.split(key, len(obs)))


def score_batch(
    algorithm: StratDiff,
    state: State,
    rows: tuple[jax.Array, jax.Array],
    key: jax.Array,
    sizes: Sizes,
) -> tuple[dict[float, dict[str, np.ndarray]], dict[float, dict[str, float]]]:
    """Of one batch, by guidance scale: every score, and numbers about how it was computed."""
    obs, action = rows
    keys = jax.random.split(key, 6)
    noise, other = (jax.random.normal(k, action.shape) for k in keys[:2])
    default = model(algorithm, precision="float32")
    reference = model(algorithm, precision="float32", solver_steps=sizes.reference_steps)
    many_supports = model(algorithm, support_actions=max(SUPPORTS))
    support = draw_support(many_supports, state, obs, keys[2])
    many = (state, obs, keys[3], action, sizes.reference_samples, (0.0, sizes.block))
    unguided = draw_many(reference, *many)
    scores: dict[float, dict[str, np.ndarray]] = {}
    numbers: dict[float, dict[str, float]] = {}
    for scale in SCALES:
        s: dict[str, Any] = {}
        for steps, kind in sizes.solvers:
            solver = model(algorithm, precision="float32", solver_steps=steps, solver=kind)
            s[f"guided {steps} {kind}"] = guided_score(solver, state, rows, noise, scale)
        s[BFLOAT] = guided_score(model(algorithm, precision="bfloat16"), state, rows, noise, scale)
        s[OTHER_NOISE] = guided_score(default, state, rows, other, scale)
        for m in SUPPORTS:
            s[f"support {m}"], weights = support_score(
                algorithm, state, rows, support[:, :m], (scale, False)
            )
            s[f"support {m} exact Q"], exact_weights = support_score(
                algorithm, state, rows, support[:, :m], (scale, True)
            )
        s["kernel"], w = support_score(algorithm, state, rows, unguided, (scale, True))
        half = sizes.reference_samples // 2
        for i in range(2):
            s[f"kernel, half {i}"], _ = support_score(
                algorithm, state, rows, unguided[:, i * half : (i + 1) * half], (scale, True)
            )
        many = (state, obs, keys[4], action, sizes.guided_samples, (scale, sizes.block))
        sampled = draw_many(reference, *many)
        s["guided density"], _ = support_score(algorithm, state, rows, sampled, (0.0, True))
        each = jnp.broadcast_to(action[:, None], sampled.shape)
        s["guided distance"] = guided_alignment(each, sampled).mean(-1)
        q = exact_q(algorithm, state, obs, unguided)
        guided_q = exact_q(algorithm, state, obs, sampled)
        numbers[scale] = {
            "largest difference of weights, bf16 Q": float(jnp.abs(weights - exact_weights).max()),
            "effective samples of the kernel reference": float((1 / jnp.square(w).sum(-1)).mean()),
            "effective actions of a support of 32": float(
                (1 / jnp.square(exact_weights).sum(-1)).mean()
            ),
            "std of Q within a state": float(q.std(-1).mean()),
            "mean Q of weighted samples - of unguided ones": float(
                ((w * q).sum(-1) - q.mean(-1)).mean()
            ),
            "mean Q of guided samples - of unguided ones": float(
                (guided_q.mean(-1) - q.mean(-1)).mean()
            ),
            "kernel width of the kernel reference": float(support_std(unguided)),
            "kernel width of a support of 16": float(support_std(support[:, :16])),
        }
        scores[scale] = {name: np.asarray(x) for name, x in s.items()}
    return scores, numbers


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation."""
    return float(spearmanr(a, b).statistic)


def same_side(a: np.ndarray, b: np.ndarray) -> float:
    """Fraction of rows that both scores put on the same side of the split at ρ = 0.5."""
    k = offline_like_count(0.5, len(a))
    sides = [np.isin(np.arange(len(a)), np.argsort(x, kind="stable")[:k]) for x in (a, b)]
    return float((sides[0] == sides[1]).mean())


def auc(score: np.ndarray, online: np.ndarray) -> float:
    """Chance that an online row has a higher score than an offline one."""
    n = int(online.sum())
    ranks = rankdata(score)[online].sum() - n * (n + 1) / 2
    return float(ranks / (n * (len(score) - n)))


def summary(values: Sequence[float]) -> list[float]:
    """[mean over the batches, standard error of it]."""
    x = np.asarray(values)
    return [float(x.mean()), float(x.std(ddof=1) / len(x) ** 0.5)]


def compare(
    batches: list[dict[str, np.ndarray]], online: np.ndarray
) -> dict[str, dict[str, list[float]]]:
    """Every score against every reference, and against guided scores of the same noise."""
    others = [n for n in (*REFERENCES, DEFAULT, *ACCURATE) if n in batches[0]]
    out: dict[str, dict[str, list[float]]] = {}
    for name in batches[0]:
        row = {"AUC": summary([auc(b[name], online) for b in batches])}
        for other in others:
            row[f"rank correlation: {other}"] = summary(
                [correlation(b[name], b[other]) for b in batches]
            )
            row[f"same side: {other}"] = summary([same_side(b[name], b[other]) for b in batches])
        out[name] = row
    return out


def extra(batches: list[dict[str, np.ndarray]]) -> dict[str, list[float]]:
    """Correlations of pairs that are no score against a reference."""

    def pair(a: str, b: str) -> list[float]:
        return summary([correlation(x[a], x[b]) for x in batches])

    out = {"two halves of the kernel reference": pair("kernel, half 0", "kernel, half 1")}
    for m in SUPPORTS:
        out[f"support {m}: bf16 differences of Q, float32 Q"] = pair(
            f"support {m}", f"support {m} exact Q"
        )
    return out


def study(sizes: Sizes, minutes: float) -> dict[str, Any]:
    """Train, score the batches (as many as begin within these minutes, at least two), compare."""
    clock, start = Clock(), time.monotonic()
    data = load(sizes)
    clock.tick("data")
    algorithm, state, device = train(sizes, data, clock)
    states, actions = online_rows(sizes.online_episodes)
    clock.tick("online rows")
    mean, std = data.normalizer()
    n = sizes.batch // 2
    rng = np.random.default_rng(3)
    offline_index = rng.permutation(len(data))[: sizes.batches * n].reshape(-1, n)
    online_index = rng.permutation(len(states))[: sizes.batches * n].reshape(-1, n)
    online = np.arange(sizes.batch) >= n
    scores, numbers = [], []
    for i, (off, on) in enumerate(zip(offline_index, online_index, strict=True)):
        if i >= 2 and time.monotonic() - start > 60 * minutes:
            break
        batch = device.take(jnp.asarray(off))
        obs = jnp.concatenate([batch.obs, jnp.asarray((states[on] - mean) / std)])
        action = jnp.concatenate([batch.action, jnp.asarray(actions[on])])
        more = score_batch(algorithm, state, (obs, action), jax.random.key(100 + i), sizes)
        scores.append(more[0])
        numbers.append(more[1])
        clock.tick(f"batch {i}")
    by_scale = {}
    for scale in SCALES:
        mine = [s[scale] for s in scores]
        names = numbers[0][scale]
        by_scale[f"{scale:g}"] = {
            "scores": compare(mine, online),
            "pairs": extra(mine),
            "numbers": {k: summary([x[scale][k] for x in numbers]) for k in names},
            "largest": {k: max(x[scale][k] for x in numbers) for k in names},
        }
    return {
        "date": datetime.date.today().isoformat(),
        "sizes": dataclasses.asdict(sizes) | {"batches": len(scores)},
        "dataset": {"name": data.name, "fingerprint": data.fingerprint, "rows": len(data)},
        "seconds": clock.seconds,
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        "by_guidance_scale": by_scale,
    }


def table(header: Sequence[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: Sequence[float]) -> str:
    """Mean and standard error."""
    return f"{value[0]:.3f} ± {value[1]:.3f}"


def report(result: dict[str, Any]) -> str:
    """The tables, by guidance scale."""
    out = []
    for scale, found in result["by_guidance_scale"].items():
        scores = found["scores"]
        hidden = ("half", "exact Q")
        shown = {k: v for k, v in scores.items() if not any(h in k for h in hidden)}
        out.append(f"### Guidance scale w = {scale}: against the references\n")
        columns = ["AUC"]
        columns += [
            f"{what}: {r}" for r in REFERENCES for what in ("rank correlation", "same side")
        ]
        rows = [[name, *(cell(row[c]) for c in columns)] for name, row in shown.items()]
        out.append(table(["score", *columns], rows) + "\n")
        out.append(f"### w = {scale}: rank correlation with guided scores of the same noise\n")
        columns = [name for name in (DEFAULT, *ACCURATE) if name in scores]
        rows = [
            [name, *(cell(row[f"rank correlation: {c}"]) for c in columns)]
            for name, row in shown.items()
            if (name.startswith("guided ") and name not in REFERENCES) or name == OTHER_NOISE
        ]
        out.append(table(["score", *columns], rows) + "\n")
        out.append(f"### w = {scale}: other numbers\n")
        rows = [[f"rank correlation, {k}", cell(v)] for k, v in found["pairs"].items()]
        rows += [[k, cell(v)] for k, v in found["numbers"].items()]
        out.append(table(["", "mean over batches"], rows) + "\n")
    return "\n".join(out)


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the study, print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--minutes", type=float, default=60, help="begin no batch after these")
    parser.add_argument("--out", type=Path, help="JSON file of all numbers")
    options = parser.parse_args(args)
    result = study(SMALL if options.small else Sizes(), options.minutes)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, json.dumps(result, indent=1) + "\n")
    print(report(result))
    return result


if __name__ == "__main__":
    main()
