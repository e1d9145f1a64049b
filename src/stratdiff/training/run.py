"""A run's state and directory: data, phases, checkpoints, sinks, evaluation."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from stratdiff import cpu
from stratdiff.compiled import keep_compiled
from stratdiff.config import OUTSIDE, Config, difference, read_config, table_to_config
from stratdiff.data import sources
from stratdiff.data.dataset import Dataset
from stratdiff.data.device import to_device
from stratdiff.errors import BadEnvironment, RunStopped, TrainingDiverged, UserError
from stratdiff.files import lock_directory, summed, undoing, write_text, writing
from stratdiff.phases import Phase
from stratdiff.policy import Policy, policy_file
from stratdiff.sinks.base import SINKS, LogPoint, Sink
from stratdiff.sinks.curves import Curves
from stratdiff.sinks.jsonl import NAME, MetricsLog, read_metrics
from stratdiff.sinks.progress import Reporter, number
from stratdiff.tasks import physics_note, task_of
from stratdiff.training import environments, memory
from stratdiff.training.checkpoint import FOLDER, Checkpoints, Position
from stratdiff.training.evaluate import Evaluator
from stratdiff.training.pretrained import Pretrained, Source
from stratdiff.training.setup import check_data, check_goal_rewards, make_setup, reward_scale
from stratdiff.training.shared import SharedPhases
from stratdiff.training.state import Accumulator
from stratdiff.training.summary import Result, finite, summarize, versions
from stratdiff.training.validate import validate

T = TypeVar("T", bound="Run")
# Called with (point, metrics); a true value ends the run.
OnEval = Callable[[LogPoint, Mapping[str, np.ndarray]], Any]


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
        on_eval: OnEval | None = None,
    ) -> None:
        """`dataset`: data in memory instead of the config's name.

        `env`: a Gymnasium environment or a function that makes one, for evaluation; None: the one
        that `config.env` or the data set names; with `config.env = OUTSIDE` there is none, and the
        policy is not evaluated. It is tried out here, with a few random actions, so reset one that
        is used elsewhere too. `shared`: folder in which runs share finished phases. `drives`:
        whether this package runs the online steps, and needs an environment a seed for them.
        `on_eval`: called after every evaluation with its log point and metrics (an array each, one
        value a seed); a true value ends the run if it is in its online phase.

        Raises:
            UserError: bad input; nothing is written.
        """
        # The same bits whatever the program or JAX_ENABLE_X64 asks for: training is float32.
        jax.config.update("jax_enable_x64", False)
        keep_compiled()
        # Trackers read the log and show the picture and the film.
        track = sorted(dict.fromkeys(config.track), key="video".__ne__)
        self._sinks: list[type[Sink]] = [MetricsLog, Curves, *map(SINKS.find, track)]
        self.reporter = reporter or Reporter()
        self._on_eval, self._ended = on_eval, False
        acts = drives and config.online_steps > 0
        needed = len(config.seeds) * (acts + config.eval_episodes)
        environments.check_enough(env, needed)
        # The process may change its folder, and `resume` be called from another.
        self.directory = Path(directory).absolute()
        config = config.located()
        if dataset is None:
            dataset = sources.load(config.dataset, config.environment, self._show_data)
            self.reporter.end()
        self._given = env
        self.config = environments.resolved(config, dataset, env)
        named = self.config.environment and (needed or config.online_steps)
        if named or env is not None:
            self.environments = environments.find_environments(self.config, env, needed)
        else:
            env_id = self.config.env.replace(OUTSIDE, "")
            self.environments = environments.Environments(task_of(dataset, env_id), None)
        self.dataset, self.task = dataset, self.environments.task
        if self.environments.known and self.task.horizon is None:
            self.reporter.say("warning: the environment has no time limit (--max-episode-steps).")
        note = physics_note(self.task.env_id, dataset.mujoco)
        if note:
            self.reporter.say(f"warning: data set {dataset.name!r}: {note}")
        if self.config.precision == "bfloat16" and cpu.low_precision() != jnp.bfloat16:
            self.reporter.say(
                "warning: this processor has no instructions for bfloat16; --precision bfloat16 "
                "rounds as they would, and makes nothing faster."
            )
        check_data(self.task, dataset)
        sparse = self.config.recipe == "antmaze"
        self.reporter.say(f"{'data':<10} {dataset.line(sparse)}")
        if sparse:
            check_goal_rewards(dataset.rewards, f"data set {dataset.name!r}")
            if not dataset.rewards.any():
                self.reporter.say("warning: no row of the data has a reward: no goal was reached.")
        scale = reward_scale(self.config, dataset)
        self.setup, self.units = make_setup(self.config, self.task, scale)
        agent = self.setup.algorithm.agent
        agent.check_data(dataset)
        self.phases = self.setup.algorithm.phases()
        training, held_out = dataset.hold_out(config.validation_fraction)
        units = self.units.scale, self.units.shift, agent.discount, sparse
        self.data = to_device(training, *units, config.normalize_states)
        self._validation = None
        if held_out is not None:
            rows = to_device(held_out, *units)
            self._validation = dataclasses.replace(rows, mean=self.data.mean, std=self.data.std)
        self._mean, self._std = np.asarray(self.data.mean), np.asarray(self.data.std)
        self.reporter.say(memory.check(self.setup, len(config.seeds), self.data))
        self.position = Position(
            versions=versions(), fingerprint=dataset.fingerprint, options=self.config.to_table()
        )
        self._shared: SharedPhases | None = None
        if shared is not None:
            self._shared = SharedPhases(
                shared, self.config, self.phases, dataset.fingerprint, versions()
            )
        self._source = Source(self.config, self.phases, dataset.fingerprint)
        new = not (self.directory / "config.json").exists()
        if new and (source := self._open_source()):
            # A part from outside may make its arrays with NumPy, and tell no shapes beforehand.
            with contextlib.suppress(jax.errors.JAXTypeError):
                source.check_sizes(self.setup.shapes())
            self.reporter.say(source.line())
        self.stored: PyTree = ()
        self._warned = False
        self._open()

    def _open_source(self) -> Pretrained | None:
        """The run to start from, where there is one."""
        return self._source.open(begun=self.position.total_steps > 0, say=self.reporter.say)

    def _show_data(self, done: int, total: int) -> None:
        self.reporter.begin("data", total)
        self.reporter.update(done)

    def _open(self) -> None:
        """Take the directory, and the last checkpoint where there is one."""
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            opened.enter_context(lock_directory(self.directory))
            path = self.directory / "config.json"
            new = not path.exists()
            if new:
                opened.enter_context(undoing(self.directory))
            else:
                self._same_options(read_config(path))
                self._check_begun()
            self.state = self.setup.init(self.config.seeds)
            if new:
                write_text(path, self.config.to_json())
            phases = {"online", *(phase.name for phase in self.phases)}
            self.checkpoints = Checkpoints(self.directory / FOLDER, phases)
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

    def _same_options(self, found: Config) -> None:
        other = difference(environments.resolved(found, self.dataset, self._given), self.config)
        if other:
            raise UserError(
                f"{str(self.directory)!r} holds a run with {other}; give another directory, or "
                "open it with the config that it was started with."
            )

    def _check_position(self, position: Position) -> None:
        """Refuse a checkpoint of other data, or of other options than config.json has now."""
        if position.fingerprint not in ("", self.dataset.fingerprint):
            raise UserError(
                f"data set {self.dataset.name!r} is not the one that the run "
                f"{str(self.directory)!r} was started with (fingerprint "
                f"{self.dataset.fingerprint}, then {position.fingerprint}); give the data "
                "back, or train anew."
            )
        begun = table_to_config(position.options, f"checkpoint of {str(self.directory)!r}")
        # The data may have moved: their fingerprint tells.
        other = difference(self.config, dataclasses.replace(begun, dataset=self.config.dataset))
        if other:
            raise UserError(
                f"the config.json of {str(self.directory)!r} was changed: it has {other}, with "
                "which the run was started; change it back, or train anew in another directory."
            )

    def _restore(self) -> bool:
        found = self.checkpoints.restore(self.state, self._check_position)
        for path in self.checkpoints.damaged:
            self.reporter.say(f"warning: a checkpoint could not be read; it is kept as {path}.")
        if found is None:
            return False
        self.state, position = found
        if position.versions != versions():
            self.reporter.say(
                f"warning: this run was written by {position.versions}; resumed with other "
                "versions, its last bits may differ."
            )
        options = self.position.options
        self.position = dataclasses.replace(position, versions=versions(), options=options)
        return True

    def _check_begun(self) -> None:
        """A run without a checkpoint begins again, which a finished one must not."""
        if any(path.name.isdecimal() for path in (self.directory / FOLDER).glob("*")):
            return
        if (self.directory / "summary.json").exists():
            raise UserError(
                f"the run {str(self.directory)!r} is finished, and without its checkpoints it "
                "cannot go on; put its folder 'checkpoints' back, or train in another directory."
            )
        self.reporter.say(
            f"warning: the run {str(self.directory)!r} has no checkpoint; it begins again."
        )

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the directory; what came after the last checkpoint is learned again."""
        self._resources.close()

    def finish(self) -> Result:
        """Evaluation and checkpoint are done: write summary.json and tell the sinks."""
        records = read_metrics(self.directory / NAME)
        updates = {p.name: p.steps for p in self.phases if isinstance(p, Phase)}
        updates["online"] = self.position.step * self.config.utd
        agent = self.state.learned.agent
        summary = summarize(
            self.config, self.task, self.dataset, self.position, updates, agent, records
        )
        text = json.dumps(summed(summary), indent=2) + "\n"
        write_text(self.directory / "summary.json", text)
        for sink in self.sinks:
            try:
                sink.finish(summary)
            except (OSError, RunStopped) as error:  # the run itself is done
                self.reporter.say(f"warning: {type(sink).__name__} could not finish: {error}")
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
                raise RunStopped(
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
        if evaluate:
            self._tell(metrics)
        if time.monotonic() - self._saved >= self.config.checkpoint_seconds:
            self._checkpoint()

    def _tell(self, metrics: dict[str, np.ndarray]) -> None:
        """Call back after an evaluation."""
        p = self.position
        if self._on_eval is None:
            return
        point = LogPoint(p.phase, p.step, p.total_steps, sum(p.seconds.values()))
        if self._on_eval(point, metrics) and p.phase == "online":
            self._ended = True

    def _check_losses(self, host: Accumulator) -> None:
        p, bad = self.position, host.bad_losses(self.config.seeds)
        if bad:
            step, name, seed = min(bad)
            raise TrainingDiverged(
                f"{name} of seed {seed} became NaN or infinite at step {step} of phase {p.phase!r}"
                f"; the last good checkpoint is in {str(self.directory / 'checkpoints')!r}, so "
                "lower the learning rate or check the reward scale and train again."
            )

    def _evaluate(self) -> dict[str, np.ndarray]:
        """Scores and returns of the policies, and metrics of the held-out transitions.

        The former need episodes and environments, the latter `validation_fraction`.
        """
        found = {}
        if self._validation is not None:
            agent = self.state.learned.agent
            found = jax.tree.map(np.asarray, validate(self.setup, agent, self._validation))
        if self.config.eval_episodes == 0 or not self.environments.known:
            return found
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
            policy.metadata["score"] = finite(scores.mean(1))
            self._keep(policy)
        own = {"score": scores.mean(1), "score_std": scores.std(1), "return": returns.mean(1)}
        return own | found

    def _keep(self, policy: Policy) -> None:
        """Save a policy of the online phase under DIR/policies."""
        path = policy_file(self.directory, self.position.step)
        with writing(path.parent):
            path.parent.mkdir(exist_ok=True)
        policy.save(path)

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
        if self.task.action_bounds:
            about["action_low"], about["action_high"] = map(list, self.task.action_bounds)
        agent = self.setup.algorithm.agent
        return agent.export(self.state.learned.agent, self._mean, self._std, about)

    def _checkpoint(self) -> None:
        self._tick()
        self.checkpoints.save(self.state, self.position)
        self._policy().save(self.directory / "policy.safetensors")
        self._saved = time.monotonic()
