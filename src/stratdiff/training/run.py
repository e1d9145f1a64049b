"""A run's state and directory: data, phases, checkpoints, sinks, evaluation."""

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from stratdiff.config import Config, difference, read_config
from stratdiff.data import sources
from stratdiff.data.dataset import Dataset
from stratdiff.data.device import to_device
from stratdiff.errors import BadEnvironment, RunStopped, TrainingDiverged, UserError
from stratdiff.files import lock_directory, replacing, write_text
from stratdiff.phases import Phase, StorePhase
from stratdiff.policy import Policy
from stratdiff.sinks.base import SINKS, LogPoint, Sink
from stratdiff.sinks.curves import Curves
from stratdiff.sinks.jsonl import NAME, MetricsLog, read_metrics
from stratdiff.sinks.progress import Reporter, number
from stratdiff.tasks import physics_note, task_of
from stratdiff.training import environments, pretrain
from stratdiff.training.checkpoint import Checkpoints, Position
from stratdiff.training.evaluate import Evaluator
from stratdiff.training.setup import check_data, make_setup, reward_scale
from stratdiff.training.shared import SharedPhases
from stratdiff.training.state import Accumulator
from stratdiff.training.summary import Result, finite, summarize, versions

T = TypeVar("T", bound="Run")


class Run:
    """A run's state and directory: data, phases, checkpoints, sinks, evaluation.

    Opening the directory of a run that was cut off goes on from its last checkpoint.
    """

    def __init__(
        self,
        config: Config,
        directory: str | Path,
        dataset: Dataset | None = None,
        env: environments.Given = None,
        reporter: Reporter | None = None,
        shared: Path | None = None,
        drives: bool = False,
    ) -> None:
        """`dataset`: data in memory instead of the config's name.

        `env`: a Gymnasium environment or a function that makes one, for evaluation; None: the one
        that `config.env` or the data set names; with `config.env = OUTSIDE` there is none, and the
        policy is not evaluated. It is tried out here, with a few random actions, so reset one that
        is used elsewhere too. `shared`: folder in which runs share finished phases. `drives`:
        whether this package runs the online steps, and needs an environment a seed for them.

        Raises:
            UserError: bad input; nothing is written.
        """
        self.reporter = reporter or Reporter()
        self.directory = Path(directory)
        needed = len(config.seeds) * (drives + config.eval_episodes)
        environments.check_enough(env, needed)
        if dataset is None:
            dataset = sources.load(config.dataset, config.environment, self._show_data)
            self.reporter.end()
        self._given = env
        self.config = environments.resolved(config, dataset, env)
        if self.config.environment or env is not None:
            self.environments = environments.find_environments(self.config, env, needed)
        else:
            self.environments = environments.Environments(task_of(dataset), None)
        self.dataset, self.task = dataset, self.environments.task
        if self.environments.known and self.task.horizon is None:
            self.reporter.say("warning: the environment has no time limit (--max-episode-steps).")
        note = physics_note(self.task.env_id, dataset.mujoco)
        if note:
            self.reporter.say(f"warning: data set {dataset.name!r}: {note}")
        check_data(self.task, dataset)
        scale = reward_scale(self.config, dataset)
        self.setup, self.units = make_setup(self.config, self.task, scale)
        agent = self.setup.algorithm.agent
        agent.check_data(dataset)
        self.phases = self.setup.algorithm.phases()
        sparse = self.config.recipe == "antmaze"
        self.data = to_device(dataset, self.units.scale, self.units.shift, agent.discount, sparse)
        self._mean, self._std = np.asarray(self.data.mean), np.asarray(self.data.std)
        self.position = Position(versions=versions(), fingerprint=dataset.fingerprint)
        self._shared: SharedPhases | None = None
        if shared is not None:
            self._shared = SharedPhases(
                shared, self.config, self.phases, dataset.fingerprint, versions()
            )
        self.stored: PyTree = ()
        self._warned = False
        self._sinks: list[type[Sink]] = [MetricsLog, *map(SINKS.find, config.track), Curves]
        self._open()

    def _show_data(self, done: int, total: int) -> None:
        self.reporter.begin("data", total)
        self.reporter.update(done)

    def _open(self) -> None:
        """Take the directory, and the last checkpoint where there is one."""
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            opened.enter_context(lock_directory(self.directory))
            self._check_config(self.directory / "config.json")
            self.state = self.setup.init(self.config.seeds)
            self.checkpoints = Checkpoints(self.directory / "checkpoints")
            opened.callback(self.checkpoints.close)
            resumed = self._restore()
            table = self.config.to_table()
            self.sinks: list[Sink] = []
            for kind in self._sinks:
                sink = kind(self.directory, table)
                opened.callback(sink.close)
                sink.rewind(self.position.log_points, self.position.total_steps)
                self.sinks.append(sink)
            self.evaluator = Evaluator(
                self.environments, self.config.seeds, self.config.eval_episodes
            )
            opened.callback(self.evaluator.close)
            opened.callback(self.environments.release)
            opened.callback(self.reporter.end)
            self._clock = self._saved = time.monotonic()
            if not resumed:
                self._checkpoint()
            self._resources = opened.pop_all()

    def _check_config(self, path: Path) -> None:
        """Write config.json, or check that a run that is there has the same options."""
        if not path.exists():
            return write_text(path, self.config.to_json())
        other = difference(
            environments.resolved(read_config(path), self.dataset, self._given), self.config
        )
        if other:
            raise UserError(
                f"{str(self.directory)!r} holds a run with {other}; give another directory, or "
                "open it with the config that it was started with."
            )

    def _restore(self) -> bool:
        found = self.checkpoints.restore(self.state)
        for path in self.checkpoints.damaged:
            self.reporter.say(f"warning: a checkpoint could not be read; it is kept as {path}.")
        if found is None:
            return False
        self.state, position = found
        if position.fingerprint not in ("", self.dataset.fingerprint):
            raise UserError(
                f"data set {self.dataset.name!r} is not the one that the run "
                f"{str(self.directory)!r} was started with (fingerprint "
                f"{self.dataset.fingerprint}, then {position.fingerprint}); give the data "
                "back, or train anew."
            )
        if position.versions != versions():
            self.reporter.say(
                f"warning: this run was written by {position.versions}; resumed with other "
                "versions, its last bits may differ."
            )
        self.position = dataclasses.replace(position, versions=versions())
        return True

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the directory; what came after the last checkpoint is learned again."""
        self._resources.close()

    def pretrain(self) -> None:
        """Run the phases that are left before the online one; nothing where they are done."""
        p, names = self.position, [phase.name for phase in self.phases]
        done = len(names) if p.phase == "online" else names.index(p.phase)
        finished = p.phase == "online" and p.step >= self.config.online_steps
        for i, phase in enumerate(self.phases):
            new = i >= done
            if new:
                self._begin(phase.name)
            if isinstance(phase, Phase):
                if new:
                    self._train(phase)
            elif not finished:
                self._have_stored(phase)
            if new:
                self._checkpoint()
        self._begin("online")

    def _begin(self, phase: str) -> None:
        if self.position.phase != phase:
            self.position.phase, self.position.step = phase, 0

    def _train(self, phase: Phase) -> None:
        c, p = self.config, self.position
        if p.step >= phase.steps:
            return
        with self._turn(phase):
            if self._take_shared(phase):
                return
            self.reporter.begin(phase.name, phase.steps, p.step)
            while p.step < phase.steps:
                length = min(c.log_interval - p.step % c.log_interval, phase.steps - p.step)
                self.state, total = pretrain.run_steps(
                    self.setup, phase.name, self.state, self.data, self.stored,
                    jnp.asarray(p.step), length,
                )  # fmt: skip
                p.step, p.total_steps = p.step + length, p.total_steps + length
                every = c.offline_eval_interval
                due = p.step // every > (p.step - length) // every or p.step == phase.steps
                self._log_point(total, phase.acts and due)
                self.reporter.update(p.step)
            self._share(phase)

    def _turn(self, phase: Phase | StorePhase) -> contextlib.AbstractContextManager[None]:
        return self._shared.turn(phase) if self._shared else contextlib.nullcontext()

    def _take_shared(self, phase: Phase) -> bool:
        """Whether the phase was taken over from a run that trained the same."""
        p = self.position
        if self._shared is None or p.step > 0:
            return False
        found = self._shared.load(phase, pretrain.trained_part(self.state, phase))
        if found is None:
            return False
        part, left = found
        self.state = pretrain.with_part(self.state, phase, part)
        start, before = self._tick(), p.total_steps
        for record in left.records:
            step, seconds = record.pop("step"), start + record.pop("time")
            metrics = {key: np.array(values, float) for key, values in record.items()}
            self._log(LogPoint(phase.name, step, before + step, seconds), metrics)
        p.step, p.total_steps = phase.steps, before + phase.steps
        p.seconds[phase.name] = p.seconds.get(phase.name, 0.0) + left.seconds
        self.reporter.say(f"{phase.name:<10} taken from {self._shared.folder(phase)}")
        return True

    def _share(self, phase: Phase) -> None:
        """Let other runs have the finished phase."""
        if self._shared is None:
            return
        total, spent = self._tick(), self.position.seconds[phase.name]
        records = [r for r in read_metrics(self.directory / NAME) if r["phase"] == phase.name]
        for record in records:
            record["time"] -= total - spent
            del record["phase"]
        part = pretrain.trained_part(self.state, phase)
        self._shared.save(phase, part, records, spent)

    def _have_stored(self, phase: StorePhase) -> None:
        """Have what the score stores with the rows of D_off: from the disk, or computed now."""
        if jax.tree.leaves(self.stored):
            return
        folder = self._shared.folder(phase) if self._shared else self.directory
        one = jax.tree.map(lambda x: x[0], self.state.learned)
        wanted, structure = jax.tree.flatten(self.setup.stored_shapes(one))
        lead = len(self.config.seeds), len(self.data)
        names = [f"{phase.name}{f'-{i}' if i else ''}.npy" for i in range(len(wanted))]
        with self._turn(phase):
            with contextlib.suppress(OSError, ValueError):  # not there, or damaged: computed again
                found = [jnp.asarray(np.load(folder / n, allow_pickle=False)) for n in names]
                if all(f.shape == (*lead, *w.shape) for f, w in zip(found, wanted, strict=True)):
                    self.stored = jax.tree.unflatten(structure, found)
                    return
            self.reporter.begin(phase.name, len(self.data))
            for done, stored in pretrain.store_all(self.setup, phase.name, self.state, self.data):
                self.stored = stored
                self.reporter.update(done)
            # Beside the checkpoints, not in them: it never changes, and could be computed again.
            folder.mkdir(exist_ok=True)
            for name, leaf in zip(names, jax.tree.leaves(self.stored), strict=True):
                with replacing(folder / name) as partial, partial.open("wb") as file:
                    np.save(file, np.asarray(leaf), allow_pickle=False)
            self._tick()

    def finish(self) -> Result:
        """Evaluation and checkpoint are done: write summary.json and tell the sinks."""
        records = read_metrics(self.directory / NAME)
        updates = {p.name: p.steps for p in self.phases if isinstance(p, Phase)}
        updates["online"] = self.config.online_steps * self.config.utd
        agent = self.state.learned.agent
        summary = summarize(
            self.config, self.task, self.dataset, self.position, updates, agent, records
        )
        write_text(self.directory / "summary.json", json.dumps(summary, indent=2) + "\n")
        for sink in self.sinks:
            sink.finish(summary)
        return Result(self.directory, self.config, summary, self._policy())

    def _tick(self) -> float:
        """Book the time since the last tick to the phase; return the run's total time."""
        now = time.monotonic()
        spent, p = self.position.seconds, self.position
        spent[p.phase] = spent.get(p.phase, 0.0) + now - self._clock
        self._clock = now
        return sum(spent.values())

    def _log(self, point: LogPoint, metrics: dict[str, np.ndarray]) -> None:
        for sink in self.sinks:
            try:
                sink.log(point, metrics)
            except OSError as error:
                raise UserError(
                    f"{type(sink).__name__} could not write a log point ({error}); mend that and "
                    f"resume {str(self.directory)!r}."
                ) from error
        self.position.log_points += 1

    def _log_now(self, metrics: dict[str, np.ndarray]) -> None:
        p = self.position
        self._log(LogPoint(p.phase, p.step, p.total_steps, self._tick()), metrics)

    def _log_point(self, total: Accumulator, evaluate: bool) -> None:
        """Fetch the metrics, stop if a loss is bad, evaluate and checkpoint if due."""
        host = jax.tree.map(np.asarray, total)
        self._check_losses(host)
        metrics = {name: values / host.count for name, values in host.sums.items()}
        if evaluate:
            metrics |= self._evaluate()
        self._log_now(metrics)
        if time.monotonic() - self._saved >= self.config.checkpoint_seconds:
            self._checkpoint()

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
        """Scores and returns of the policies; nothing without episodes or environments."""
        if self.config.eval_episodes == 0 or not self.environments.known:
            return {}
        policy, p = self._policy(), self.position
        try:
            returns = self.evaluator(policy)
        except BadEnvironment as error:
            raise self.stopped(f"{error.fact}, in an evaluation") from error
        scores = np.vectorize(self.task.score, otypes=[float])(returns)
        if not (self._warned or np.isfinite(scores).all()):
            self._warned = True
            self.reporter.say(
                f"warning: environment {self.task.env_id!r} gave a reward or an observation that "
                f"is NaN or infinite in the evaluation at {p.phase} step {p.step}; such a score is "
                "logged as null."
            )
        self.reporter.update(p.step, f"score {number(scores.mean())}")
        if self.config.save_policies and p.phase == "online":
            (self.directory / "policies").mkdir(exist_ok=True)
            policy.metadata["score"] = finite(scores.mean(1))
            policy.save(self.directory / "policies" / f"step_{p.step:09d}.safetensors")
        return {"score": scores.mean(1), "score_std": scores.std(1), "return": returns.mean(1)}

    def stopped(self, fact: str, moment: str = "") -> RunStopped:
        """What ends a run whose environment failed: it can be resumed once that is mended."""
        moment = moment or f"{self.position.phase} step {self.position.step}"
        return RunStopped(
            f"{fact}, at {moment}; nothing of that step is stored, so mend the environment and "
            f"resume {str(self.directory)!r}."
        )

    def _policy(self) -> Policy:
        p = self.position
        about = {
            "environment": self.task.env_id,
            "seeds": list(self.config.seeds),
            "phase": p.phase,
            "step": p.step,
        }
        agent = self.setup.algorithm.agent
        return agent.export(self.state.learned.agent, self._mean, self._std, about)

    def _checkpoint(self) -> None:
        self._tick()
        self.checkpoints.save(self.state, self.position)
        self._policy().save(self.directory / "policy.safetensors")
        self._saved = time.monotonic()
