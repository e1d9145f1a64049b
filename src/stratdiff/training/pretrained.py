"""Another run's pre-training, to start the online phase from: `stratdiff train --from RUN`."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int, PyTree

from stratdiff.config import Config, flat_options, read_config
from stratdiff.errors import UserError, some
from stratdiff.phases import Phase, StorePhase
from stratdiff.training.pretrain import trained_part
from stratdiff.training.shared import Finished, FinishedPhases, filled, options_read
from stratdiff.training.state import TrainState, named

FOLDER = "pretrained"
# What the pre-trained networks mean depends on these.
_SAME = (
    *("base", "recipe", "reward_scale", "normalize_states", "validation_fraction"),
    *("offline_steps",),
)
# What a run may have of its own without another pre-training.
_OWN = {
    *("env", "env_kwargs", "env_spec", "max_episode_steps", "seeds", "log_interval"),
    "from_run",
}


class Pretrained:
    """The pre-training that a finished or unfinished run left in its directory.

    The base algorithm's phase is taken in any case. Another phase is taken where the options that
    it reads are the same, and trained otherwise.
    """

    def __init__(
        self, config: Config, phases: tuple[Phase | StorePhase, ...], fingerprint: str
    ) -> None:
        """`config`, `phases` and `fingerprint` (of the data) are those of the run that starts.

        Raises:
            UserError: `config.from_run` is no run, has not finished its pre-training, or does not
                fit this run.
        """
        self._config, self._phases = config, phases
        self._where = f"--from {config.from_run!r}"
        self.directory = Path(config.from_run)
        if not (self.directory / "config.json").is_file():
            raise UserError(f"{self._where} is no run directory: it has no config.json.")
        self._there = read_config(self.directory / "config.json")
        self._kept = FinishedPhases(self.directory / FOLDER)
        for name in _SAME:
            here, there = getattr(config, name), getattr(self._there, name)
            if here != there:
                option = name.replace("_", "-")
                raise UserError(
                    f"{self._where}: it was pre-trained with --{option} {there}, and this run has "
                    f"{here}; leave --{option} out, or train anew without --from."
                )
        base = phases[0]
        if not self._kept.folder(base).is_dir():
            raise UserError(
                f"{self._where} holds no pre-training in the folder {FOLDER!r}: it has not "
                "finished it, or was made before version 0.2; go on with it by `stratdiff resume`, "
                "or train anew without --from."
            )
        found = self._read(base)
        if found.fingerprint != fingerprint:
            raise UserError(
                f"{self._where}: it was pre-trained on data with the fingerprint "
                f"{found.fingerprint}, and data set {config.dataset!r} has {fingerprint}; give the "
                "same data, or train anew without --from."
            )
        seeds = found.seeds
        self._same_seeds = {*config.seeds} <= {*seeds}
        order = [
            seeds.index(seed) if self._same_seeds else i % len(seeds)
            for i, seed in enumerate(config.seeds)
        ]
        self._order: Int[np.ndarray, " seeds"] = np.array(order)

    def _read(self, phase: Phase | StorePhase) -> Finished:
        try:
            return self._kept.read(phase)
        except (UserError, OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self._where}: {str(self._kept.folder(phase))!r} is damaged ({error}); put it "
                "back from a copy, or train anew without --from."
            ) from error

    def check_sizes(self, one: TrainState) -> None:
        """Check that the networks fit; `one`: shapes of one seed's state.

        Raises:
            UserError: they have other sizes, or a phase is damaged.
        """
        for phase in self._phases:
            if not (isinstance(phase, Phase) and self.has(phase)):
                continue
            there, here = self._read(phase).arrays, named(trained_part(one, phase))
            found = {name: f"{array.dtype}{list(array.shape[1:])}" for name, array in there.items()}
            wanted = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in here.items()}
            for name in sorted(wanted.keys() | found.keys()):
                if wanted.get(name) != found.get(name):
                    raise UserError(
                        f"{self._where}: its networks do not fit (phase {phase.name!r}, {name}: "
                        f"found {found.get(name, 'nothing')}, expected "
                        f"{wanted.get(name, 'nothing')}); give the sizes that it was pre-trained "
                        "with, or train anew without --from."
                    )

    def line(self) -> str:
        """Where this run starts from, and which options differ, in a line."""
        here, there = flat_options(self._config), flat_options(self._there)
        others = [
            f"--{name.replace('_', '-')} {value} (there {there.get(name, 'none')})"
            for name, value in here.items()
            if value != there.get(name) and name not in ("seeds", "from_run")
        ]
        start = [str(self._there.seeds[i]) for i in self._order]
        seeds = "" if self._same_seeds else f"; seeds start from its {' '.join(start)}"
        return f"{'from':<10} {self.directory}{seeds}; other options: {some(others)}"

    def _fits(self, phase: Phase | StorePhase) -> bool:
        """Whether a phase of the score was trained there as it would be here."""
        first, *others = self._phases
        options = [
            options_read(phase, tuple(others), config) for config in (self._config, self._there)
        ]
        here, there = ({k: v for k, v in o.items() if k not in _OWN} for o in options)
        return phase is first or here == there

    def has(self, phase: Phase | StorePhase) -> bool:
        """Whether the phase can be taken over."""
        if isinstance(phase, StorePhase):
            return self.stored(phase) is not None
        return self._fits(phase) and self._kept.folder(phase).is_dir()

    def take(self, phase: Phase, template: PyTree) -> tuple[PyTree, Finished] | None:
        """(the part of the state, what the phase left), both for this run's seeds.

        None: it has to be trained.

        Raises:
            UserError: it is damaged.
        """
        if not self.has(phase):
            return None
        found = self._read(phase)
        arrays = {name: array[self._order] for name, array in found.arrays.items()}
        records = [
            {key: _of_seeds(value, self._order) for key, value in record.items()}
            for record in found.records
        ]
        part = filled(template, arrays)
        left = dataclasses.replace(found, arrays=arrays, records=records, seeds=self._config.seeds)
        return part, left

    def stored(self, phase: StorePhase) -> Path | None:
        """The folder with what its score stored with D_off, if that is what this run would draw."""
        usable = self._fits(phase) and self._config.seeds == self._there.seeds
        return self.directory if usable else None


class Source:
    """The run that another one starts from, looked at when it is needed."""

    def __init__(
        self, config: Config, phases: tuple[Phase | StorePhase, ...], fingerprint: str
    ) -> None:
        """As `Pretrained`; without `config.from_run` there is none."""
        self._make = functools.partial(Pretrained, config, phases, fingerprint)
        self._found: Pretrained | None = None
        self._lost = not config.from_run

    def open(self, begun: bool, say: Callable[[str], None]) -> Pretrained | None:
        """It, or None. A run that has `begun`, with its base agent, goes on where it is gone.

        Raises:
            UserError: as `Pretrained`, before that.
        """
        if self._found is None and not self._lost:
            try:
                self._found = self._make()
            except UserError as error:
                if not begun:
                    raise
                self._lost = True
                say(f"warning: {error} What is missing of it is trained anew.")
        return self._found


def _of_seeds(value: object, order: Int[np.ndarray, " seeds"]) -> object:
    return [value[i] for i in order] if isinstance(value, list) else value
