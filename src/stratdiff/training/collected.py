"""What a run collected online: its replay buffer as a data set, in the environment's units."""

from pathlib import Path

import numpy as np

from stratdiff.config import OUTSIDE, read_config
from stratdiff.data import sources
from stratdiff.data.dataset import REQUIRED, Dataset, finish_rows, from_arrays
from stratdiff.errors import UserError
from stratdiff.files import lock_directory
from stratdiff.training.checkpoint import FOLDER, Checkpoints, Position
from stratdiff.training.setup import reward_scale

NAME = "replay"
"""`RUN/replay` is what all seeds of a run collected, `RUN/replay/SEED` what one of them did."""


def run_of(name: str) -> tuple[Path, int | None] | None:
    """(run directory, seed or None for all) of a name `RUN/replay` or `RUN/replay/SEED`."""
    path, seed = Path(name), None
    if path.parent.name == NAME and path.name.isdecimal():
        path, seed = path.parent, int(path.name)
    is_one = path.name == NAME and not path.exists() and (path.parent / "config.json").is_file()
    return (path.parent, seed) if is_one else None


def collected(
    directory: str | Path, seed: int | None = None, dataset: Dataset | None = None
) -> Dataset:
    """The transitions of a run's replay buffers up to its last checkpoint, in time order.

    Seeds follow each other as trajectories of their own; `seed`: only that one's. `dataset`: the
    run's data, where they have no name by which they can be loaded; they say in which units the
    run learns. An episode that was cut off has one row more, with its last observation, so that
    D4RL's rule gives exactly the transitions of the buffer.

    The buffer holds normalised states and scaled rewards in float32. Undoing that rounds again: a
    state is off by at most 2^-23 of its distance to the data's mean and of itself, a reward by
    2^-22 of itself; states that were not normalised and rewards of the antmaze recipe come back
    exactly. Actions are those of the buffer, in [-1, 1].

    Raises:
        UserError: the directory holds no run with online steps or no such seed, another process
            trains there, or the data are not those of the run.
    """
    directory = Path(directory)
    where = f"run directory {str(directory)!r}"
    if not (directory / "config.json").is_file():
        raise UserError(f"{where} has no config.json; give the directory of a run.")
    config = read_config(directory / "config.json")
    if seed is not None and seed not in config.seeds:
        raise UserError(
            f"{where} has no seed {seed}; its seeds are {', '.join(map(str, config.seeds))}."
        )
    if dataset is None:
        dataset = sources.load(config.dataset, config.environment)
    sizes = dataset.observations.shape[1], dataset.actions.shape[1]
    scale = reward_scale(config, dataset)
    algorithm = config.algorithm(*sizes, scale)
    phases = {"online", *(phase.name for phase in algorithm.phases())}
    position, buffer = _buffer(directory, where, phases)
    if position.fingerprint != dataset.fingerprint:
        raise UserError(
            f"data set {dataset.name!r} is not the one that the run {str(directory)!r} was trained "
            f"on (fingerprint {dataset.fingerprint}, then {position.fingerprint}), and its units "
            "are needed; give the data back."
        )
    wanted = [i for i, one in enumerate(config.seeds) if seed in (None, one)]
    parts = [_in_time_order({key: x[i] for key, x in buffer.items()}) for i in wanted]
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if config.normalize_states:
        learned_from, _ = dataset.hold_out(config.validation_fraction)
        mean, std = (x.astype(np.float64) for x in learned_from.normalizer())
        arrays["observations"] = (arrays["observations"] * std + mean).astype(np.float32)
    units = algorithm.agent.reward_units(config.recipe, scale)
    rewards = (arrays["rewards"].astype(np.float64) - units.shift) / units.scale
    # Rows of last observations are no steps.
    arrays["rewards"] = np.where(arrays["timeouts"], 0, rewards).astype(np.float32)
    env_id = "" if config.env == OUTSIDE else config.env
    about = {key: position.versions[key] for key in ("gymnasium", "mujoco", "stratdiff")}
    about["name"] = f"{directory.name}/{NAME}"
    if config.environment.startswith("{"):
        about["env_spec"] = config.environment
    return from_arrays(str(directory / NAME), finish_rows(arrays), env_id or None, metadata=about)


def _buffer(
    directory: Path, where: str, phases: set[str]
) -> tuple[Position, dict[str, np.ndarray]]:
    """(where the run stands, arrays of its replay buffers, seeds first)."""
    found = None
    if (directory / FOLDER).is_dir():
        with lock_directory(directory):
            checkpoints = Checkpoints(directory / FOLDER, phases)
            try:
                found = checkpoints.newest()
            finally:
                checkpoints.close()
    buffer = {}
    if found is not None:
        start = ".replay."
        buffer = {
            name.removeprefix(start).removeprefix("data."): np.asarray(array)
            for name, array in found[2].items()
            if name.startswith(start)
        }
    if found is None or not buffer["inserted"].any():
        raise UserError(
            f"{where} has no checkpoint with an online step: nothing was collected yet."
        )
    return found[0], buffer


def _in_time_order(buffer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """D4RL's rows of one buffer, oldest first; states and rewards as the run learns from them.

    The oldest episode of a buffer that has run over is without its beginning.
    """
    inserted, capacity = int(buffer["inserted"]), len(buffer["reward"])
    order = np.arange(max(inserted - capacity, 0), inserted) % capacity
    obs, after, terminal = (buffer[key][order] for key in ("obs", "next_obs", "terminal"))
    # The next row goes on from here, unless a new episode was started.
    goes_on = np.append((after[:-1] == obs[1:]).all(1), False)
    cut = np.flatnonzero(~terminal & ~goes_on)
    added = cut + 1 + np.arange(len(cut))  # where the last observations of episodes stand
    steps = np.delete(np.arange(len(order) + len(cut)), added)
    rows = {"timeouts": np.zeros(len(order) + len(cut), bool)}
    rows["timeouts"][added] = True
    for key, name in zip(REQUIRED, ("obs", "action", "reward", "terminal"), strict=True):
        column = buffer[name][order]
        rows[key] = np.zeros((len(order) + len(cut), *column.shape[1:]), column.dtype)
        rows[key][steps] = column
    rows["observations"][added] = after[cut]
    return rows
