"""Do IQL and Cal-QL learn as d3rlpy's do? The offline part of one cell of an experiment, twice.

    python -m benchmarks.parity experiments/core-small.toml halfcheetah-medium-replay/iql-base

Both sides get the same transitions, normalised states, scaled rewards, network sizes, rates, number
of updates and evaluation episodes. Writes benchmarks/results/parity-VARIANT.json. What differs is
in docs/results.md.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import peers
from benchmarks.bench import RESULTS, about
from stratdiff.config import Config
from stratdiff.data.sources import load_dataset
from stratdiff.experiments import read_spec
from stratdiff.files import write_text
from stratdiff.nn import MLP
from stratdiff.sinks.jsonl import NAME, read_metrics
from stratdiff.training.environments import find_environments, resolved
from stratdiff.training.evaluate import Evaluator
from stratdiff.training.loop import train
from stratdiff.training.setup import make_setup, reward_scale

Curve = dict[int, list[float]]
"""Score of every seed after so many updates."""


def main() -> None:
    """Train both, print and keep the scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec")
    parser.add_argument("cell", help="TASK/VARIANT of the experiment, a plain base algorithm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="updates; default: the cell's offline steps")
    options = parser.parse_args()
    config = {cell.name: cell.config for cell in read_spec(options.spec)}[options.cell]
    steps = options.steps or config.offline_steps
    config = dataclasses.replace(
        config,
        seeds=tuple(range(options.seeds)),
        offline_steps=steps,
        offline_eval_interval=max(steps // 4, 1),
        online_steps=0,
        eval_episodes=20,
    )
    record: dict[str, Any] = {"about": about(), "cell": options.cell, "steps": steps, "curves": {}}
    sides = {"stratdiff": ours, "stratdiff, PyTorch's weights": ours_from_their_weights}
    for name, side in (sides | {"d3rlpy": theirs}).items():
        start = time.perf_counter()
        record["curves"][name] = side(config)
        record[f"{name}_seconds"] = time.perf_counter() - start
        for step, scores in record["curves"][name].items():
            mean, spread = np.mean(scores), np.std(scores, ddof=1)
            print(f"{name:<28} {step:>8,}  {mean:6.1f} ± {spread:.1f}  {scores}", flush=True)
    variant = options.cell.split("/")[-1]
    write_text(RESULTS / f"parity-{variant}.json", json.dumps(record, indent=1) + "\n")


def ours(config: Config) -> Curve:
    """The scores of a run of ours, all seeds together."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, Path(folder) / "run")
        records = read_metrics(result.directory / NAME)
    return {r["step"]: r["score"] for r in records if "score" in r}


def ours_from_their_weights(config: Config) -> Curve:
    """As `ours`, but all layers start as PyTorch initialises them, which d3rlpy does not change."""
    usual = MLP.__init__

    def uniform(self: MLP, *sizes: Any, **options: Any) -> None:
        usual(self, *sizes, **options | {"init": "uniform", "final_gain": 1.0})

    no_offset = mock.patch("stratdiff.agents.calql.INITIAL_LOG_STD", 0.0)
    with mock.patch.object(MLP, "__init__", uniform), no_offset:
        return ours(config)


def theirs(config: Config) -> Curve:
    """The scores of d3rlpy's runs, one after another."""
    curves = [_theirs_one(config, seed) for seed in config.seeds]
    return {step: [curve[step] for curve in curves] for step in curves[0]}


def _theirs_one(config: Config, seed: int) -> dict[int, float]:
    import d3rlpy
    from d3rlpy.optimizers import AdamFactory
    from d3rlpy.optimizers.lr_schedulers import CosineAnnealingLRFactory

    d3rlpy.seed(seed)
    data = load_dataset(config.dataset)
    config = resolved(config, data, None)
    environments = find_environments(config, None, config.eval_episodes)
    task, options = environments.task, config.agent
    _, units = make_setup(config, task, reward_scale(config, data))
    mean, std = data.normalizer() if config.normalize_states else (0.0, 1.0)
    timeouts = data.ends & ~data.terminals
    timeouts[-1] |= not data.ends[-1]  # d3rlpy wants the last row to end an episode
    dataset = d3rlpy.dataset.MDPDataset(
        (data.observations - mean) / std,
        data.actions,
        (data.rewards * units.scale).astype(np.float32),
        data.terminals.astype(np.float32),
        timeouts=timeouts.astype(np.float32),
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )
    encoder = d3rlpy.models.VectorEncoderFactory(list(options.actor_hidden), activation="relu")
    if config.base == "iql":
        cosine = options.actor_schedule == "cosine"
        decay = CosineAnnealingLRFactory(config.offline_steps) if cosine else None
        plan = dataclasses.replace(
            peers.iql_config(encoder),
            actor_learning_rate=options.learning_rate,
            critic_learning_rate=options.learning_rate,
            actor_optim_factory=AdamFactory(lr_scheduler_factory=decay),
        )
    else:
        plan = dataclasses.replace(
            peers.calql_config(encoder),
            actor_learning_rate=options.actor_learning_rate,
            temp_learning_rate=options.actor_learning_rate,
            critic_learning_rate=options.critic_learning_rate,
            conservative_weight=options.alpha,
            n_action_samples=options.sampled_actions,
        )
    algo = dataclasses.replace(plan, batch_size=config.batch_size).create(device="cpu")
    algo.build_with_dataset(dataset)

    class Greedy:
        """The interface that the evaluator expects."""

        def mode(self, obs: np.ndarray) -> np.ndarray:
            states = ((obs - mean) / std).astype(np.float32)
            return algo.predict(states.reshape(-1, states.shape[-1])).reshape(*obs.shape[:2], -1)

    evaluator = Evaluator(environments, (seed,), config.eval_episodes)
    curve = {}
    for step in range(1, config.offline_steps + 1):
        algo.update(dataset.sample_transition_batch(config.batch_size))
        if step % config.offline_eval_interval == 0:
            returns = evaluator(Greedy())
            curve[step] = float(np.mean([task.score(float(r)) for r in returns[0]]))
    evaluator.close()
    return curve


if __name__ == "__main__":
    main()
