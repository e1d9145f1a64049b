"""A run from start to end: the phases in order, and what they leave in the run directory."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stratdiff.config import Config, read_config
from stratdiff.data import sources
from stratdiff.data.batch import Transition
from stratdiff.data.dataset import Dataset
from stratdiff.data.lock import alone
from stratdiff.data.sources import load_dataset
from stratdiff.errors import TrainingDiverged, UserError
from stratdiff.policy import Policy, from_network
from stratdiff.report.curves import plot_curves
from stratdiff.tasks import Task, find_task, make_env, physics_note
from stratdiff.train import offline, online
from stratdiff.train.checkpoint import Checkpoints, Position
from stratdiff.train.evaluate import Evaluator, episode_seed
from stratdiff.train.pretrained import PART, Pretrained
from stratdiff.train.state import Accumulator, TrainState, make_learner, to_device
from stratdiff.train.track import MetricsLog, Reporter, read_metrics

PHASES = ("base", "behaviour", "support", "energy", "online")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run left."""

    directory: Path
    config: Config
    summary: dict[str, Any]
    policy: Policy
    """The final policies, one per seed; call it with a raw state for the first seed's action."""

    @property
    def scores(self) -> dict[str, list[float]]:
        """Normalised score per seed, before and after fine-tuning."""
        return {when: self.summary["score"][when]["per_seed"] for when in ("before", "after")}


def train(
    config: Config,
    out: str | Path,
    dataset: Dataset | None = None,
    reporter: Reporter | None = None,
    pretrained: Path | None = None,
) -> Result:
    """Pre-train and fine-tune by `config`; the run directory `out` must be new or empty.

    `dataset`: data in memory instead of the config's name (`resume` then needs it again).
    `pretrained`: folder in which runs share offline phases that are the same (train/pretrained.py).

    Raises:
        UserError: bad input (nothing is written), or a loss that is no longer finite.
    """
    config.validate()
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"output directory {str(out)!r} is a file; give another --out.")
    # What starts with a dot was left by a process that was killed.
    there = [p for p in out.iterdir() if not p.name.startswith(".")] if out.exists() else []
    if (out / "config.json").is_file():
        raise UserError(
            f"output directory {str(out)!r} already holds a run; give another --out, or go on with "
            f"`stratdiff resume {out}` if it was cut off."
        )
    if there:
        raise UserError(
            f"output directory {str(out)!r} already holds {there[0].name!r}, but no run; give "
            "another --out, or empty it."
        )
    run = _Run(config, out, dataset, reporter or Reporter(), pretrained)
    with alone(out):
        write_text(out / "config.json", run.config.to_json())
        return run.execute()


def resume(
    directory: str | Path,
    dataset: Dataset | None = None,
    reporter: Reporter | None = None,
    pretrained: Path | None = None,
) -> Result:
    """Go on with a run that was cut off; the end is the same, bit for bit, as without the cut.

    Raises:
        UserError: the directory holds no run, or its checkpoint cannot be used here.
    """
    directory = Path(directory)
    run = _Run(_run_config(directory), directory, dataset, reporter or Reporter(), pretrained)
    with alone(directory):
        return run.execute()


def evaluate(directory: str | Path, episodes: int, seed: int | None) -> dict[str, Any]:
    """Episodes of a run's newest policies: returns and scores per seed.

    `seed` chooses the episodes; None: those of the run's own evaluations.

    Raises:
        UserError: the directory holds no run with a policy.
    """
    directory = Path(directory)
    config = _run_config(directory)
    policy = Policy.load(directory / "policy.safetensors")
    task = _task(config)
    seeds = config.seeds if seed is None else (seed,) * len(config.seeds)
    evaluator = Evaluator(task, seeds, episodes)
    returns = evaluator(policy)
    evaluator.close()
    scores = np.vectorize(task.score, otypes=[float])(returns)
    return {
        "environment": task.env_id,
        "seeds": list(config.seeds),
        "return": returns.mean(1).tolist(),
        "score": scores.mean(1).tolist(),
        "score_std": scores.std(1).tolist(),
    }


def _run_config(directory: Path) -> Config:
    if not (directory / "config.json").is_file():
        raise UserError(f"{str(directory)!r} is no run directory: it has no config.json.")
    return read_config(directory / "config.json")


def _task(config: Config) -> Task:
    """The task; scored by the data set's reference returns where only the data set knows them."""
    task = find_task(config.env)
    known = {e.name: e.reference_returns for e in sources.entries() if e.env_id is None}
    if task.reference_returns is None and config.dataset in known:
        task = dataclasses.replace(task, reference_returns=known[config.dataset])
    return task


class _Shares:
    """Where the time of the online loop goes.

    `python`: the Python thread's own work, dispatch included; `environment`: its steps; `compile`:
    first dispatches of a session; `device`: the rest, when the device was waited for or, on a CPU,
    held the core that Python needed (it also works while Python does).
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._last = seconds, (0.0, 0.0)

    def start(self) -> None:
        """An environment step begins."""
        self._last = time.perf_counter(), time.thread_time()

    def book(self, part: str) -> None:
        """The time since the last call was this part's."""
        last, self._last = self._last, (time.perf_counter(), time.thread_time())
        wall, cpu = (now - then for now, then in zip(self._last, last, strict=True))
        own = min(cpu, wall) if part == "python" else wall
        for name, seconds in ((part, own), ("device", wall - own)):
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds


class _Run:
    """The mutable side of a run. Everything that learns is in `self.state`."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        dataset: Dataset | None,
        reporter: Reporter,
        pretrained: Path | None,
    ) -> None:
        self.reporter = reporter
        if dataset is None:
            dataset = load_dataset(config.dataset, config.env, self._show_data)
            reporter.end()
        env_id = config.env or dataset.env_id
        if not env_id:
            raise UserError(
                f"data set {dataset.name!r} does not name its environment; give it with --env."
            )
        self.config = dataclasses.replace(config, env=env_id)
        self.directory, self.dataset = directory, dataset
        self.task = _task(self.config)
        note = physics_note(env_id, dataset.mujoco)
        if note:
            reporter.say(f"warning: data set {dataset.name!r}: {note}")
        self.learner = make_learner(self.config, self.task, dataset)
        self.data = to_device(self.learner, dataset)
        self.mean, self.std = np.asarray(self.data.mean), np.asarray(self.data.std)
        self.support: Float[Array, "seeds n support act"] | None = None
        self.position = Position(versions=versions(), fingerprint=dataset.fingerprint)
        self.pretrained: Pretrained | None = None
        if pretrained is not None:
            self.pretrained = Pretrained(
                pretrained, self.config, dataset.fingerprint, self.position.versions
            )
        self.state: TrainState

    def _show_data(self, done: int, total: int) -> None:
        self.reporter.begin("data", total)
        self.reporter.update(done)

    def execute(self) -> Result:
        """Run the phases that are left: all of them where there is no checkpoint yet."""
        self.state = self.learner.init(self.config.seeds)
        self.checkpoints = Checkpoints(self.directory / "checkpoints")
        found = self.checkpoints.restore(self.state)
        for path in self.checkpoints.damaged:
            self.reporter.say(f"warning: a checkpoint could not be read; it is kept as {path}.")
        if found is not None:
            self.state, position = found
            if position.fingerprint not in ("", self.dataset.fingerprint):
                raise UserError(
                    f"data set {self.dataset.name!r} is not the one that the run "
                    f"{str(self.directory)!r} was started with (fingerprint "
                    f"{self.dataset.fingerprint}, then {position.fingerprint}); give the data "
                    "back, or train anew."
                )
            if position.versions != self.position.versions:
                self.reporter.say(
                    f"warning: this run was written by {position.versions}; resumed with other "
                    "versions, its last bits may differ."
                )
            self.position = dataclasses.replace(position, versions=self.position.versions)
        self.log = MetricsLog(self.directory / "metrics.jsonl", self.position.metrics_bytes)
        self.evaluator = Evaluator(self.task, self.config.seeds, self.config.eval_episodes)
        self._clock = self._saved = time.monotonic()
        if found is None:
            self._checkpoint()
        try:
            for phase in PHASES[PHASES.index(self.position.phase) :]:
                if phase != self.position.phase:
                    self.position.phase, self.position.step = phase, 0
                if phase == "online":
                    self._online()
                elif phase == "support":
                    self._support()
                else:
                    self._offline(phase)
                self._checkpoint()
        finally:
            self.reporter.end()
            self.log.close()
            self.checkpoints.close()
            self.evaluator.close()
        return self._finish()

    def _offline(self, phase: str) -> None:
        c, p = self.config, self.position
        one, steps, wanted = {
            "base": (offline.base_step, c.offline_steps, True),
            "behaviour": (offline.behaviour_step, c.behaviour_steps, c.needs_behaviour),
            "energy": (offline.energy_step, c.energy_steps, c.needs_energy),
        }[phase]
        if not wanted or p.step >= steps:
            return
        with self._turn(phase):
            if self._take(phase, steps):
                return
            if phase == "energy":
                self._support()
            self.reporter.begin(phase, steps, p.step)
            while p.step < steps:
                length = min(c.log_interval - p.step % c.log_interval, steps - p.step)
                first = jnp.asarray(p.step)
                self.state, total = offline.run_steps(
                    one, self.learner, self.state, self.data, self.support, first, length
                )
                p.step, p.total_steps = p.step + length, p.total_steps + length
                every = c.offline_eval_interval
                due = p.step // every > (p.step - length) // every or p.step == steps
                self._log_point(total, phase == "base" and due)
                self.reporter.update(p.step)
            self._keep(phase)

    def _turn(self, phase: str) -> contextlib.AbstractContextManager[None]:
        return self.pretrained.turn(phase) if self.pretrained else contextlib.nullcontext()

    def _take(self, phase: str, steps: int) -> bool:
        """Whether the phase was taken over from a run that trained the same."""
        p, name = self.position, PART[phase]
        if self.pretrained is None or p.step > 0:
            return False
        found = self.pretrained.load(phase, getattr(self.state, name))
        if found is None:
            return False
        part, left = found
        self.state = eqx.tree_at(lambda s: getattr(s, name), self.state, part)
        start = self._tick()
        for record in left.records:
            step, seconds = record.pop("step"), start + record.pop("time")
            metrics = {key: np.array(values, float) for key, values in record.items()}
            p.metrics_bytes = self.log.write(phase, step, seconds, metrics)
        p.step, p.total_steps = steps, p.total_steps + steps
        p.seconds[phase] = p.seconds.get(phase, 0.0) + left.seconds
        self.reporter.say(f"{phase:<10} taken from {self.pretrained.folder(phase)}")
        return True

    def _keep(self, phase: str) -> None:
        """Let other runs have the finished phase."""
        if self.pretrained is None:
            return
        total, spent = self._tick(), self.position.seconds[phase]
        records = [r for r in read_metrics(self.directory / "metrics.jsonl") if r["phase"] == phase]
        for record in records:
            record["time"] -= total - spent
            del record["phase"]
        self.pretrained.save(phase, getattr(self.state, PART[phase]), records, spent)

    def _support(self) -> None:
        """Have the support actions of D_off: from the disk, or drawn now."""
        c = self.config
        if not c.needs_support or self.support is not None:
            return
        folder = self.pretrained.folder("support") if self.pretrained else self.directory
        path = folder / "support.npy"
        n = len(self.data.rows)
        shape = (len(c.seeds), n, c.behaviour.support_actions, self.task.action_dim)
        with self._turn("support"):
            with contextlib.suppress(OSError, ValueError):  # not there, or damaged: drawn again
                self.support = jnp.asarray(np.load(path, allow_pickle=False))
                if self.support.shape == shape:
                    return
            self.reporter.begin("support", n)
            support = jnp.zeros(shape)
            for first in range(0, n, offline.SUPPORT_ROWS):
                support = offline.fill_support(
                    self.learner, self.state, self.data, support, jnp.asarray(first)
                )
                support.block_until_ready()
                self.reporter.update(min(first + offline.SUPPORT_ROWS, n))
            self.support = support
            # Beside the checkpoints, not in them: it never changes, and could be drawn again.
            folder.mkdir(exist_ok=True)
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, np.asarray(support), allow_pickle=False)
            os.replace(partial, path)
            self._tick()

    def _online(self) -> None:
        c, p, seeds = self.config, self.position, self.config.seeds
        if c.online_steps == 0 or p.step >= c.online_steps:
            return
        self._support()
        envs = [make_env(self.task.env_id) for _ in seeds]
        if p.step == 0:
            p.episodes, p.episode_lengths = [0] * len(seeds), [0] * len(seeds)
        obs = np.stack([self._enter_episode(i, env) for i, env in enumerate(envs)])
        self.reporter.begin("online", c.online_steps, p.step)
        if p.step == 0:
            self.state = online.first_action(self.learner, self.state, self._normalize(obs))
            self._evaluate_only()
        loop = online.Loop(self.learner, self.state, self.data, self.support)
        unknown_return = np.full(len(seeds), -np.inf, np.float32)
        rule, clock = self.learner.reward, _Shares(p.online_seconds)
        first, finished = p.step, False
        while p.step < c.online_steps:
            clock.start()
            action = loop.action()
            clock.book("device")
            next_obs, reward = np.empty_like(obs), np.zeros(len(seeds))
            terminal, ended = np.zeros(len(seeds), bool), np.zeros(len(seeds), np.int32)
            after = np.empty_like(obs)
            for i, env in enumerate(envs):
                next_obs[i], r, terminated, truncated, _ = env.step(action[i])
                reward[i], terminal[i] = float(r), terminated
                after[i] = next_obs[i]
                p.episode_lengths[i] += 1
                if terminated or truncated:
                    ended[i] = p.episode_lengths[i]
                    p.episodes[i], p.episode_lengths[i] = p.episodes[i] + 1, 0
                    after[i] = self._enter_episode(i, env)
            clock.book("environment")
            arrays: dict[str, Any] = {
                "obs": self._normalize(obs),
                "action": action,
                "reward": (rule.scale * reward + rule.shift).astype(np.float32),
                "next_obs": self._normalize(next_obs),
                "terminal": terminal,
                "mc_return": unknown_return,
            }
            obs = after
            loop.step(Transition(**arrays), self._normalize(obs), p.step)
            clock.book("compile" if p.step == first else "python")
            if ended.any():
                lengths = jnp.asarray(ended)
                loop.state = online.finish_episodes(self.learner, loop.state, lengths)
                clock.book("python" if finished else "compile")
                finished = True
            p.step, p.total_steps = p.step + 1, p.total_steps + 1
            if p.step % c.log_interval == 0 or p.step == c.online_steps:
                logged = (p.step - 1) // c.log_interval * c.log_interval
                due = p.step // c.eval_interval > logged // c.eval_interval
                due |= p.step == c.online_steps
                self.state = loop.state
                self._log_point(loop.take_total(), due)
            if p.step % 10 == 0:
                self.reporter.update(p.step)
        for env in envs:
            env.close()

    def _enter_episode(self, i: int, env: Any) -> np.ndarray:
        """Start the current episode of seed i, and go on to where the run stands in it.

        An episode's start depends on the seed and its number alone and its actions are in the
        replay buffer, so a resumed run plays them again instead of saving simulator states.
        """
        p = self.position
        obs, _ = env.reset(seed=episode_seed(self.config.seeds[i], 0, p.episodes[i]))
        length = p.episode_lengths[i]
        if length == 0:
            return obs
        replay = jax.tree.map(lambda x: np.asarray(x[i]), self.state.replay)
        rows = range(int(replay.inserted) - length, int(replay.inserted))
        for row in rows:
            obs = env.step(replay.data.action[row])[0]
        if not np.array_equal(self._normalize(obs), replay.data.next_obs[rows[-1]]):
            self.reporter.say(
                f"warning: environment {self.task.env_id!r} did not repeat the episode of seed "
                f"{self.config.seeds[i]}; a new episode starts, so the run will not equal an "
                "uninterrupted one."
            )
            p.episodes[i], p.episode_lengths[i] = p.episodes[i] + 1, 0
            return self._enter_episode(i, env)
        return obs

    def _normalize(self, obs: np.ndarray) -> np.ndarray:
        return ((obs - self.mean) / self.std).astype(np.float32)

    def _tick(self) -> float:
        """Book the time since the last tick to the phase; return the run's total time."""
        now = time.monotonic()
        spent, p = self.position.seconds, self.position
        spent[p.phase] = spent.get(p.phase, 0.0) + now - self._clock
        self._clock = now
        return sum(spent.values())

    def _log_point(self, total: Accumulator, evaluate: bool) -> None:
        """Fetch the metrics, stop if a loss is bad, evaluate and checkpoint if due."""
        p = self.position
        host = jax.tree.map(np.asarray, total)
        self._check_losses(host)
        metrics = {name: values / host.count for name, values in host.sums.items()}
        if evaluate:
            metrics |= self._evaluate()
        p.metrics_bytes = self.log.write(p.phase, p.step, self._tick(), metrics)
        if time.monotonic() - self._saved >= self.config.checkpoint_seconds:
            self._checkpoint()

    def _evaluate_only(self) -> None:
        p = self.position
        p.metrics_bytes = self.log.write(p.phase, p.step, self._tick(), self._evaluate())

    def _check_losses(self, host: Accumulator) -> None:
        p = self.position
        bad = [
            (int(step), name, seed)
            for name, steps in host.bad_step.items()
            if name.endswith("_loss")
            for seed, step in zip(self.config.seeds, steps, strict=True)
            if step >= 0
        ]
        if bad:
            step, name, seed = min(bad)
            kept = str(self.directory / "checkpoints")
            raise TrainingDiverged(
                f"{name} of seed {seed} became NaN or infinite at step {step} of phase {p.phase!r}"
                f"; the last good checkpoint is kept in {kept!r}, so "
                "lower the learning rate or check the reward scale and train again."
            )

    def _evaluate(self) -> dict[str, np.ndarray]:
        policy = self._policy()
        returns = self.evaluator(policy)
        scores = np.vectorize(self.task.score, otypes=[float])(returns)
        p = self.position
        self.reporter.update(p.step, f"score {scores.mean():.1f}")
        if self.config.save_policies and p.phase == "online":
            (self.directory / "policies").mkdir(exist_ok=True)
            policy.metadata["score"] = scores.mean(1).tolist()
            policy.save(self.directory / "policies" / f"step_{p.step:09d}.safetensors")
        return {"score": scores.mean(1), "score_std": scores.std(1), "return": returns.mean(1)}

    def _policy(self) -> Policy:
        p = self.position
        about = {
            "environment": self.task.env_id,
            "seeds": list(self.config.seeds),
            "phase": p.phase,
            "step": p.step,
        }
        actor = self.learner.agent.policy(self.state.agent)
        return from_network(jax.tree.map(np.asarray, actor), self.mean, self.std, about)

    def _checkpoint(self) -> None:
        self._tick()
        self.checkpoints.save(self.state, self.position)
        self._policy().save(self.directory / "policy.safetensors")
        self._saved = time.monotonic()

    def _finish(self) -> Result:
        """summary.json and curves.png."""
        records = read_metrics(self.directory / "metrics.jsonl")
        summary = summarize(self, records)
        write_text(self.directory / "summary.json", json.dumps(summary, indent=2) + "\n")
        plot_curves(records, summary, self.directory / "curves.png")
        return Result(self.directory, self.config, summary, self._policy())


def summarize(run: _Run, records: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of summary.json."""
    c, spent = run.config, run.position.seconds
    scored = [r for r in records if "score" in r]
    pretrained = [r for r in scored if r["phase"] == "base" or r["step"] == 0]
    points = {"before": (pretrained or scored)[-1], "after": scored[-1]} if scored else {}
    updates = {
        "base": c.offline_steps,
        "behaviour": c.behaviour_steps if c.needs_behaviour else 0,
        "energy": c.energy_steps if c.needs_energy else 0,
        "online": c.online_steps * c.utd,
    }
    returns = run.dataset.episodes(sparse=run.task.recipe == "antmaze")[1]
    return {
        "score": {
            when: {"per_seed": r["score"], "mean": float(np.mean(r["score"]))}
            for when, r in points.items()
        },
        "normalized": run.task.reference_returns is not None,
        "seeds": list(c.seeds),
        "dataset": {
            "name": run.dataset.name,
            "fingerprint": run.dataset.fingerprint,
            "transitions": len(run.dataset),
            "episodes": len(returns),
            "mean_score": run.task.score(float(returns.mean())) if len(returns) else None,
        },
        "environment": run.task.env_id,
        "seconds": {phase: round(s, 2) for phase, s in spent.items()},
        "online_seconds": {part: round(s, 2) for part, s in run.position.online_seconds.items()},
        "updates_per_second": {
            phase: round(n * len(c.seeds) / spent[phase], 2)
            for phase, n in updates.items()
            if n and spent.get(phase)
        },
        "parameters_sha256": [_digest(run.state.agent, i) for i in range(len(c.seeds))],
        "versions": versions(),
        "git_revision": git_revision(),
        "device": jax.devices()[0].device_kind,
    }


def _digest(tree: Any, i: int) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(np.asarray(leaf)[i]).tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of what decides a run's bits."""
    names = ("stratdiff", "jax", "jaxlib", "numpy", "equinox", "optax", "gymnasium", "mujoco")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}


def git_revision() -> str | None:
    """The commit of the source tree, where the package runs from one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def write_text(path: Path, text: str) -> None:
    """Write beside, then rename."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
