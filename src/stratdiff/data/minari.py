"""Minari's data sets: the local store first, then Minari's own download."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Space

from stratdiff.data.d4rl import ANTMAZES
from stratdiff.data.dataset import Dataset, finish_rows, from_arrays
from stratdiff.data.sources import Entry, Progress, Source
from stratdiff.envs import identity
from stratdiff.envs.guard import check_actions, unit_actions
from stratdiff.errors import UserError
from stratdiff.reading import expanded, home
from stratdiff.tasks import observation_parts

_ID = re.compile(r"([-\w]+/)*[-\w]+-v\d+")


class Minari(Source):
    """Sets of Minari's store, `minari/<dataset id>`; every id is taken for one."""

    def entries(self) -> Iterator[Entry]:
        """Those of Minari's documentation."""
        envs, kinds = ("halfcheetah", "hopper", "walker2d", "ant"), ("simple", "medium", "expert")
        ids = [f"mujoco/{env}/{kind}-v0" for env in envs for kind in kinds]
        ids += [f"D4RL/antmaze/{maze}-v1" for maze in ANTMAZES]
        mazes, rewards = ("open", "umaze", "medium", "large"), ("", "-dense")
        ids += [f"D4RL/pointmaze/{maze}{reward}-v2" for maze in mazes for reward in rewards]
        hands, kinds = ("pen", "hammer", "door", "relocate"), ("human", "cloned", "expert")
        ids += [f"D4RL/{hand}/{kind}-v2" for hand in hands for kind in kinds]
        ids += [f"D4RL/kitchen/{kind}-v2" for kind in ("complete", "partial", "mixed")]
        return (Entry(self.prefix + dataset_id) for dataset_id in ids)

    def find(self, name: str) -> Entry | None:
        return None if name == self.prefix else Entry(name)

    def local(self, entry: Entry) -> Path | None:
        # Minari itself need not be installed for this.
        store = os.environ.get("MINARI_DATASETS_PATH", "")
        place = Path(expanded(store)) if store else home() / ".minari" / "datasets"
        path = place / entry.name.removeprefix(self.prefix)
        return path if path.is_dir() else None

    def load(self, entry: Entry, env: str = "", progress: Progress | None = None) -> Dataset:
        """See `Source`; refused too: a malformed id, and spaces that are no flat real ones."""
        arrays, env_id, about = _read(entry.name, entry.name.removeprefix(self.prefix), progress)
        return from_arrays(entry.name, arrays, env_id or None, metadata=about)


def _read(
    name: str, dataset_id: str, progress: Progress | None
) -> tuple[dict[str, np.ndarray], str, dict[str, str | int | float]]:
    """(arrays of the package's layout, environment id or "", metadata) of a data set.

    Minari's episodes have one observation more than steps. The last one takes a row of its own
    where the episode was cut off (see `tools.recorder`), and is left out after a terminal.
    """
    where = f"data set {name!r}"
    source = _open(dataset_id_of(dataset_id, where), where)
    actions, known = check_actions(source.action_space, where), source.storage.metadata
    raw = source.storage.read_raw_metadata(source.storage.data_path).get("observation_space")
    to_flat = _flattener(source.observation_space, json.loads(raw) if raw else None, where)
    episodes: list[dict[str, np.ndarray]] = []
    try:
        for i, episode in enumerate(source):
            if len(episode.rewards):
                episodes.append(_rows(episode, to_flat, actions))
            if progress is not None:
                progress(i + 1, len(source))
    except (OSError, KeyError, ValueError, TypeError, ImportError, AssertionError) as error:
        raise _unreadable(dataset_id, where, error) from error
    if not episodes:
        raise UserError(f"{where} has no episode with a step; choose another one.")
    arrays = {key: np.concatenate([e[key] for e in episodes]) for key in episodes[0]}
    about: dict[str, str | int | float] = {"name": name}
    for key in ("author", "algorithm_name", "code_permalink", "minari_version", "requirements"):
        if value := known.get(key):
            about[key] = value if isinstance(value, str) else ", ".join(sorted(map(str, value)))
    # Where they differ, its authors say which one to evaluate in.
    if spec := str(known.get("eval_env_spec") or known.get("env_spec") or ""):
        about["env_spec"] = spec
    return finish_rows(arrays), identity.read(spec).env_id if spec else "", about


def dataset_id_of(dataset_id: str, where: str) -> str:
    """The id itself, where it has Minari's form; `where` begins the sentence of an error.

    Raises:
        UserError: it has not.
    """
    if not _ID.fullmatch(dataset_id):
        raise UserError(
            f"{where} is no Minari name; expected minari/ and an id like "
            "mujoco/halfcheetah/medium-v0."
        )
    return dataset_id


def import_minari(where: str) -> Any:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import minari
    except ImportError as error:
        raise UserError(
            f"{where} needs Minari, which is not installed; pip install 'stratdiff[minari]'."
        ) from error
    return minari


def _open(dataset_id: str, where: str) -> Any:
    """Minari's data set."""
    minari = import_minari(where)
    from minari.dataset.minari_storage import MinariStorage
    from minari.storage import get_dataset_path

    store = get_dataset_path()
    if not (store / dataset_id / "data").exists():
        try:
            minari.download_dataset(dataset_id)
        # Minari's remotes raise errors of many libraries.
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UserError(
                f"{where}: {dataset_id!r} is not in Minari's local store {str(store)!r} and could "
                f"not be downloaded ({reason}); run `minari download {dataset_id}` on a machine "
                "with network and copy the folder into the store."
            ) from error
    try:
        about = MinariStorage.read_raw_metadata(store / dataset_id / "data")
        if not {"observation_space", "action_space"} <= about.keys():
            raise ValueError("its spaces are missing, and code that it names is not run for them")
        return minari.load_dataset(dataset_id)
    except Exception as error:
        raise _unreadable(dataset_id, where, error) from error


def _unreadable(dataset_id: str, where: str, error: Exception) -> UserError:
    from minari.storage import get_dataset_path

    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return UserError(
        f"{where} in {str(get_dataset_path(dataset_id))!r} could not be read ({reason}); if its "
        "download was cut off, remove that folder and load it again."
    )


def _rows(episode: Any, to_flat: Callable[[Any], np.ndarray], space: Box) -> dict[str, np.ndarray]:
    """The rows of one episode: T after a terminal, T + 1 where it was cut off."""
    steps, observations = len(episode.rewards), to_flat(episode.observations)
    terminals = np.asarray(episode.terminations, bool)
    if len(observations) != steps + 1 or len(episode.actions) != steps:
        raise ValueError(
            f"episode {episode.id} has {len(observations)} observations and "
            f"{len(episode.actions)} actions for {steps} steps"
        )
    # A truncation inside an episode changes nothing: the next observation follows it.
    rows = steps if terminals[-1] else steps + 1
    rewards, actions = np.zeros(rows, np.float32), np.zeros((rows, *space.shape), np.float32)
    actions[:steps] = unit_actions(np.asarray(episode.actions), space)
    rewards[:steps] = episode.rewards
    out = {"observations": observations[:rows], "actions": actions, "rewards": rewards}
    # The row that is added where the episode was cut off is no terminal.
    out["terminals"] = np.concatenate([terminals, np.zeros(rows - steps, bool)])
    return out | {"timeouts": np.arange(rows) == steps}


def _flattener(
    space: Space, stored: dict[str, Any] | None, where: str
) -> Callable[[Any], np.ndarray]:
    """How observations of an episode become (T + 1, size) float32.

    `stored`: the space in Minari's JSON. It has the keys in the environment's order, which is that
    of Gymnasium's flattening; Minari sorts them when it reads the space.
    """
    if isinstance(space, Dict):
        inner = stored["subspaces"] if stored else dict.fromkeys(space.spaces)
        shapes = {key: sub.shape for key, sub in space.spaces.items()}
        keys = observation_parts(shapes) or list(inner)
        parts = [(key, _flattener(space.spaces[key], inner[key], where)) for key in keys]
        return lambda obs: np.concatenate([flat(obs[key]) for key, flat in parts], axis=1)
    if not isinstance(space, Box):
        raise UserError(
            f"{where} has observations of the space {space}; a Box or a Dict of them is needed, so "
            "choose a set with real-valued observations."
        )
    size = int(np.prod(space.shape))
    return lambda obs: np.asarray(obs, np.float32).reshape(-1, size)
