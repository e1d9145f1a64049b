"""Write a Minari data set into Minari's local store."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from stratdiff.data.dataset import from_arrays
from stratdiff.data.minari import dataset_id_of, import_minari
from stratdiff.envs import identity
from stratdiff.envs.guard import env_actions
from stratdiff.errors import UserError
from stratdiff.files import replacing, writing
from stratdiff.tasks import load_env

_DESCRIPTION = (
    "Written by stratdiff from {source}. Observations are flat. The observation after a terminal "
    "is not known: the last one of the episode is written a second time."
)
# What a file of the package says that Minari has a place for.
_KEPT = ("author", "algorithm_name", "code_permalink")


def is_one(name: str) -> bool:
    """Whether the user means a set of Minari's store, not an HDF5 file."""
    return name.startswith("minari/") and not name.endswith((".hdf5", ".h5"))


def check_new(name: str) -> None:
    """Refuse what cannot be written.

    Raises:
        UserError: Minari is not installed, the name is no Minari name, or the set exists.
        RunStopped: Minari's store cannot be made.
    """
    dataset_id = dataset_id_of(name.removeprefix("minari/"), f"data set {name!r}")
    import_minari(f"data set {name!r}")
    path = _path(dataset_id)
    if path.exists():
        raise UserError(
            f"{name!r} already exists in {str(path)!r}; give another version (-v1), or remove it "
            "first."
        )


def write(
    name: str, arrays: Mapping[str, np.ndarray], env_id: str, metadata: Mapping[str, Any]
) -> None:
    """Write arrays of the package's layout as the Minari data set of a name `minari/<id>`.

    An episode is what one trajectory has in transitions, with the observation that follows. With
    an environment, actions are scaled from [-1, 1] to its bounds, and Minari finds it in the set;
    without, they stay in [-1, 1]. Observations and rewards are float32; `infos` are left out.

    Raises:
        UserError: the environment cannot be made or be stored.
        RunStopped: the store cannot be written, or has the set (see `check_new`); nothing is left
            behind.
    """
    minari = import_minari(f"data set {name!r}")
    from minari.dataset.minari_storage import MinariStorage
    from minari.namespace import create_namespace, list_local_namespaces

    dataset_id = name.removeprefix("minari/")
    bounds: Box = Box(-1.0, 1.0, arrays["actions"].shape[1:], np.float32)
    about: dict[str, Any] = {"dataset_id": dataset_id, "minari_version": minari.__version__}
    if env_id:
        env = load_env(identity.exact(env_id, str(metadata.get("env_spec", ""))))
        bounds, about["env_spec"] = env.bounds, _spec(env.env, env_id)
        env.close()
    about |= {key: str(metadata[key]) for key in _KEPT if key in metadata}
    if "author" in about:
        about["author"] = {about["author"]}  # Minari has a set of them
    about["description"] = _DESCRIPTION.format(source=metadata.get("name", "a file"))
    space = Box(-np.inf, np.inf, arrays["observations"].shape[1:], np.float32)
    path = _path(dataset_id)
    with writing(path):
        namespace = dataset_id.rpartition("/")[0]
        if namespace and namespace not in list_local_namespaces():
            create_namespace(namespace)
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.mkdir()
        storage = MinariStorage.new(partial / "data", space, bounds)
        storage.update_metadata(about)
        storage.update_episodes(_episodes(arrays, bounds))


def _path(dataset_id: str) -> Path:
    """Where Minari keeps the set; its store is made."""
    from minari.storage import get_dataset_path

    with writing(Path(dataset_id)):
        return Path(get_dataset_path(dataset_id))


def _spec(env: Any, env_id: str) -> str:
    """The EnvSpec that Minari and `data.minari` read, as JSON."""
    text = identity.write(env, env_id) or EnvSpec(env_id).to_json()
    return json.dumps(json.loads(text) | {"id": env_id})


def _episodes(arrays: Mapping[str, np.ndarray], bounds: Box) -> Iterator[Any]:
    """Minari's buffers of the trajectories, in order."""
    from minari.data_collector import EpisodeBuffer

    found = from_arrays("", arrays)
    is_step = np.zeros(len(found.rewards), bool)
    is_step[found.transitions] = True
    stops = [*np.flatnonzero(found.ends), len(is_step) - 1]
    start = 0
    for stop in stops:
        rows = slice(start, start + np.count_nonzero(is_step[start : stop + 1]))
        start = stop + 1
        if rows.start == rows.stop:
            continue
        # The row after the last step, or that step's own observation after a terminal.
        last = rows.stop - 1 if found.terminals[rows.stop - 1] else rows.stop
        terminals = found.terminals[rows]
        ended = np.arange(len(terminals)) == len(terminals) - 1
        yield EpisodeBuffer(
            observations=np.append(found.observations[rows], found.observations[[last]], axis=0),
            actions=env_actions(found.actions[rows], bounds),
            rewards=found.rewards[rows],
            terminations=terminals,
            truncations=ended & ~terminals,
        )
