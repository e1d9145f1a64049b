"""The pre-training of a run: its phases, trained or taken over from a run that trained the same."""

import contextlib
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from stratdiff import process
from stratdiff.files import writing
from stratdiff.phases import Phase, StorePhase
from stratdiff.sinks.base import LogPoint
from stratdiff.sinks.jsonl import NAME, read_metrics
from stratdiff.training import pretrain
from stratdiff.training.forecast import SHORTEST, Stopwatch, acting
from stratdiff.training.pretrained import FOLDER
from stratdiff.training.run import Run
from stratdiff.training.shared import FinishedPhases, load_arrays, save_arrays


class OfflineRun(Run):
    """A run up to its first online step."""

    _foretold = ""
    """The phase at which the run's duration was estimated last."""

    def pretrain(self) -> None:
        """Run the phases that are left before the online one; nothing where they are done."""
        p, names = self.position, [phase.name for phase in self.phases]
        done = len(names) if p.phase == "online" else names.index(p.phase)
        finished = p.phase == "online" and p.step >= self.config.online_steps
        self._forecast(self.phases[done:])
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
                if isinstance(phase, Phase):
                    self._keep_phase(phase)
                self._checkpoint()
        self._begin("online")
        if p.step == 0:
            self._keep(self._policy())  # what fine-tuning starts from

    def _forecast(self, phases: tuple[Phase | StorePhase, ...]) -> None:
        """Say about how long these phases and the online one take, at the beginning of each part.

        Not for a run of seconds. The time that this takes is booked to itself.
        """
        c, p = self.config, self.position
        trained = [phase for phase in phases if isinstance(phase, Phase)]
        steps = {phase.name: phase.steps for phase in trained} | {"online": c.online_steps}
        left = {name: n - p.step if name == p.phase else n for name, n in steps.items()}
        updates = sum(left.values()) + left["online"] * (c.utd - 1)
        if self.reporter.quiet or self._foretold == p.phase or updates < SHORTEST:
            return
        self._foretold = p.phase
        self._tick()
        watch = Stopwatch(self.setup, self.state, self.data, self.stored)
        stored = any(isinstance(phase, StorePhase) for phase in self.phases)
        there = stored and len(trained) == len(phases)
        evaluation, seconds = self._evaluation_seconds(), {}
        for phase in phases:
            process.honour()
            seconds[phase.name] = 0.0
            if self._is_there(phase):
                there |= isinstance(phase, StorePhase)
            elif isinstance(phase, StorePhase):
                seconds[phase.name], there = len(self.data) * watch.storing(phase), True
            elif n := left[phase.name]:
                length = min(c.log_interval, phase.steps)
                evaluations = math.ceil(n / c.offline_eval_interval) if phase.acts else 0
                each = watch.phase(phase, length, there)
                seconds[phase.name] = n * each + evaluations * evaluation
        process.honour()
        if n := left["online"]:
            each = watch.online(max(c.frozen_steps, c.online_warmup), stored)
            each += len(c.seeds) * self.environments.step_seconds
            evaluations = 1 + math.ceil(n / c.eval_interval)
            seconds["online"] = n * each + evaluations * evaluation
        self.reporter.expect(seconds)
        now = time.monotonic()
        p.seconds["forecast"] = p.seconds.get("forecast", 0.0) + now - self._clock
        self._clock = now

    def _is_there(self, phase: Phase | StorePhase) -> bool:
        """Whether another run has trained the phase."""
        source = self._open_source()
        shared = self._shared is not None and self._shared.folder(phase).exists()
        return shared or (source is not None and source.has(phase))

    def _evaluation_seconds(self) -> float:
        """About how long an evaluation takes, if its episodes are as long as those of the data."""
        n = len(self.config.seeds) * self.config.eval_episodes
        if n == 0 or not self.environments.known:
            return 0.0
        episodes = len(self.dataset.episodes()[0])
        usual = len(self.data) / episodes if episodes else math.inf
        steps = min(usual, self.task.horizon or usual)
        lead = len(self.config.seeds), self.config.eval_episodes
        acts = acting(self._policy(), np.zeros((*lead, self.setup.obs_dim)))
        return steps * (acts + n * self.environments.step_seconds)

    def _begin(self, phase: str) -> None:
        if self.position.phase != phase:
            self.position.phase, self.position.step = phase, 0

    def _train(self, phase: Phase) -> None:
        c, p = self.config, self.position
        if p.step >= phase.steps:
            return
        with self._turn(phase):
            if p.step == 0 and self._take_over(phase):
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
                if process.stopping():
                    self._checkpoint()
                    process.honour()
            if self._shared:
                self._save_in(self._shared, phase)

    def _turn(self, phase: Phase | StorePhase) -> contextlib.AbstractContextManager[None]:
        return self._shared.turn(phase) if self._shared else contextlib.nullcontext()

    def _take_over(self, phase: Phase) -> bool:
        """Whether the phase was taken over from a run that trained the same, or that was given."""
        p, template = self.position, pretrain.trained_part(self.state, phase)
        found, where = None, self.directory
        if source := self._open_source():
            found, where = source.take(phase, template), source.directory
        if found is None and self._shared is not None:
            found, where = self._shared.load(phase, template), self._shared.folder(phase)
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
        self.reporter.say(f"{phase.name:<10} taken from {where}")
        return True

    def _keep_phase(self, phase: Phase) -> None:
        """Keep the finished phase in the run's directory: other runs may start from it."""
        self._save_in(FinishedPhases(self.directory / FOLDER), phase)

    def _save_in(self, folder: FinishedPhases, phase: Phase) -> None:
        total, spent = self._tick(), self.position.seconds[phase.name]
        records = [r for r in read_metrics(self.directory / NAME) if r["phase"] == phase.name]
        for record in records:
            record["time"] -= total - spent
            del record["phase"]
        part = pretrain.trained_part(self.state, phase)
        about = self.dataset.fingerprint, self.config.seeds
        folder.save(phase, part, records, spent, *about)

    def _have_stored(self, phase: StorePhase) -> None:
        """Have what the score stores with the rows of D_off: from the disk, or computed now."""
        if jax.tree.leaves(self.stored):
            return
        folder = self._shared.folder(phase) if self._shared else self.directory
        one = jax.tree.map(lambda x: x[0], self.state.learned)
        wanted, structure = jax.tree.flatten(self.setup.stored_shapes(one))
        lead = len(self.config.seeds), len(self.data)
        shapes = [((*lead, *w.shape), w.dtype) for w in wanted]
        paths = [folder / f"{phase.name}{f'-{i}' if i else ''}.npy" for i in range(len(wanted))]
        with self._turn(phase):
            found = load_arrays(paths, shapes)
            source = self._open_source() if found is None else None
            if source and (there := source.stored(phase)):
                found = load_arrays([there / path.name for path in paths], shapes)
            if found is not None:
                self.stored = jax.tree.unflatten(structure, map(jnp.asarray, found))
                return
            self.reporter.begin(phase.name, len(self.data))
            for done, stored in pretrain.store_all(self.setup, phase.name, self.state, self.data):
                self.stored = stored
                self.reporter.update(done)
                process.honour()
            # Beside the checkpoints, not in them: it never changes, and could be computed again.
            if self._shared:
                with writing(folder):
                    folder.mkdir(exist_ok=True)
            save_arrays(paths, [np.asarray(leaf) for leaf in jax.tree.leaves(self.stored)])
            self._tick()
