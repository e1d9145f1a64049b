"""Every data set that is known by name.

What D4RL's own files are off by (issues of Farama-Foundation/D4RL): AntMaze v0 and v1 have timeouts
out of step with the ends of trajectories (77; v2 has not), maze2d's timeouts mark sub-goals (85)
and its rewards are one row late (194).
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from stratdiff.data import d4rl, download, generate
from stratdiff.data.dataset import Dataset
from stratdiff.envs.antmaze import HORIZONS
from stratdiff.errors import UserError, nearest
from stratdiff.tasks import REFERENCE_RETURNS

Source = Literal["d4rl", "stratdiff", "minari"]
Returns = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A data set by name; None where a fact is unknown or its file tells."""

    name: str
    """With the source in front, `d4rl/hopper-medium-v2`."""
    source: Source
    env_id: str | None = None
    """The environment to train in; None: `--env` has to name it."""
    horizon: int | None = None
    """Steps after which an episode is cut off."""
    reference_returns: Returns | None = None
    """Returns of score 0 and score 100."""
    rows: int | None = None
    episodes: int | None = None
    url: str | None = None
    file: str | None = None
    """What D4RL calls the file on disk."""


# D4RL: names, addresses, reference returns and horizons as registered in d4rl/ at 89141a6.

_SERVER = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"
_LOCOMOTION = {
    "halfcheetah": "HalfCheetah",
    "hopper": "Hopper",
    "walker2d": "Walker2d",
    "ant": "Ant",
}
# Rows and episodes of the v2 files.
_SIZES: dict[str, tuple[int, int | None]] = {
    "halfcheetah-random-v2": (1_000_000, 1000),
    "halfcheetah-medium-v2": (1_000_000, 1000),
    "halfcheetah-expert-v2": (1_000_000, 1000),
    "halfcheetah-medium-replay-v2": (202_000, 202),
    "hopper-medium-replay-v2": (402_000, None),
    "walker2d-medium-replay-v2": (302_000, None),
}
# (maze, suffix of the name): (multistart, multigoal) in the name of the file.
_ANTMAZE = {
    ("umaze", ""): (False, False),
    ("umaze", "-diverse"): (True, True),
    ("medium", "-play"): (True, False),
    ("medium", "-diverse"): (True, True),
    ("large", "-play"): (True, False),
    ("large", "-diverse"): (True, True),
}
# The eval mazes' files that are multigoal; all are multistart.
_EVAL_MULTIGOAL = (("umaze", "-diverse"), ("medium", "-play"), ("large", "-play"))
_MAZE2D_HORIZONS = {
    "v0": {"open": 150, "umaze": 150, "medium": 250, "large": 600},
    "v1": {"umaze": 300, "medium": 600, "large": 800},
}
_MAZE2D_RETURNS: dict[str, Returns] = {
    "open-v0": (0.01, 20.66),
    "open-dense-v0": (11.17817, 27.166538620695782),
    "umaze-v0": (0.94, 62.6),
    "umaze-dense-v0": (23.249793, 81.78995240126592),
    "medium-v0": (5.77, 85.14),
    "medium-dense-v0": (19.47762, 96.03474232952358),
    "large-v0": (4.83, 191.99),
    "large-dense-v0": (27.38831, 215.09965671563742),
    "umaze-v1": (23.85, 161.86),
    "umaze-dense-v1": (68.537689, 193.66285642381482),
    "medium-v1": (13.13, 277.39),
    "medium-dense-v1": (44.264742, 297.4552547777125),
    "large-v1": (6.7, 273.99),
    "large-dense-v1": (30.569041, 303.4857382709002),
    "eval-umaze-v1": (36.63, 141.4),
    "eval-umaze-dense-v1": (56.95455, 178.21373133248397),
    "eval-medium-v1": (13.07, 204.93),
    "eval-medium-dense-v1": (42.28578, 235.5658957482388),
    "eval-large-v1": (16.4, 302.22),
    "eval-large-dense-v1": (56.95455, 326.09647655082637),
}
# Reference returns, horizon, horizon of human-longhorizon.
_ADROIT: dict[str, tuple[Returns, int, int]] = {
    "pen": ((96.262799, 3076.8331017826877), 100, 200),
    "hammer": ((-274.856578, 12794.134825156867), 200, 600),
    "door": ((-56.512833, 2880.5693087298737), 200, 300),
    "relocate": ((-6.425911, 4233.877797728884), 200, 500),
}
_KITCHEN = {
    "complete": "mini_kitchen_microwave_kettle_light_slider",
    "partial": "kitchen_microwave_kettle_light_slider",
    "mixed": "kitchen_microwave_kettle_bottomburner_light",
}


def entries() -> tuple[Entry, ...]:
    """All data sets known by name: made here, D4RL's, Minari's."""
    return tuple(_by_name().values())


def find(name: str) -> Entry:
    """The data set of this name; every `minari/...` is taken for one.

    Raises:
        UserError: there is no such data set.
    """
    entry = _by_name().get(name)
    if entry is not None:
        return entry
    if name.startswith("minari/") and name != "minari/":
        return Entry(name, "minari")
    raise UserError(
        f"unknown data set {name!r}; did you mean {nearest(name, _by_name())}? Or give the path of "
        "an HDF5 file."
    )


def d4rl_path(entry: Entry) -> Path | None:
    """Where the entry's D4RL file is on this machine; None: nowhere."""
    if entry.file is None:
        return None
    places = [folder / entry.file for folder in _d4rl_folders()]
    return next((path for path in places if path.is_file()), None)


def d4rl_target(entry: Entry) -> Path:
    """Where the entry's D4RL file is downloaded to: where D4RL itself keeps it."""
    assert entry.file is not None, entry
    return _d4rl_folders()[0] / entry.file


def load_d4rl(entry: Entry, progress: download.Progress | None = None) -> Dataset:
    """A D4RL set from this machine, else by download.

    Raises:
        UserError: it cannot be downloaded, or the file is damaged.
    """
    assert entry.url is not None, entry
    path = d4rl_path(entry)
    if path is None:
        path = d4rl_target(entry)
        download.fetch(entry.url, path, progress)
    dataset = d4rl.read(path, entry.horizon, entry.name)
    # Made years before MuJoCo 3; their files do not say with which version.
    return dataclasses.replace(dataset, env_id=dataset.env_id or entry.env_id, mujoco="2")


def _d4rl_folders() -> list[Path]:
    chosen = os.environ.get("D4RL_DATASET_DIR")
    return [*([Path(chosen)] if chosen else []), Path.home() / ".d4rl" / "datasets"]


@functools.cache
def _by_name() -> dict[str, Entry]:
    found = [*_made(), *_locomotion(), *_antmaze(), *_maze2d(), *_adroit(), *_kitchen(), *_minari()]
    return {entry.name: entry for entry in found}


def _made() -> Iterator[Entry]:
    for name, recipe in generate.RECIPES.items():
        family = recipe.env_id.removesuffix("-v4").removesuffix("-v2")
        horizon = HORIZONS.get(family.removeprefix("stratdiff/AntMaze-"), 1000)
        returns = REFERENCE_RETURNS[family]
        yield Entry(name, "stratdiff", recipe.env_id, horizon, returns, recipe.rows)


def _d4rl(name: str, path: str, env_id: str | None, horizon: int, returns: Returns) -> Entry:
    """`path` is the file's on the server."""
    rows, episodes = _SIZES.get(name, (None, None))
    url, file = _SERVER + path, path.rpartition("/")[2]
    return Entry(f"d4rl/{name}", "d4rl", env_id, horizon, returns, rows, episodes, url, file)


def _locomotion() -> Iterator[Entry]:
    for env, family in _LOCOMOTION.items():
        # D4RL's ant has 111 observations, 84 of them contact forces: not those of Ant-v4.
        env_id, returns = None if env == "ant" else f"{family}-v4", REFERENCE_RETURNS[family]
        for variant in (*generate.VARIANTS, "random-expert"):
            for version in ("v0", "v1", "v2"):
                stem = f"{env}_{variant.replace('-', '_')}"
                path = f"gym_mujoco_{version}/{stem}-{version}.hdf5"
                if version == "v0":
                    if variant == "full-replay":
                        continue
                    if variant == "medium-replay":
                        stem = f"{'walker' if env == 'walker2d' else env}_mixed"
                    path = f"gym_mujoco/{stem}.hdf5"
                if variant == "random-expert" and (env, version) != ("ant", "v0"):
                    continue
                yield _d4rl(f"{env}-{variant}-{version}", path, env_id, 1000, returns)


def _antmaze() -> Iterator[Entry]:
    old = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
    new = {maze: maze for maze in old}
    for folder, version, mazes, end in (
        ("ant_maze_new", "v0", old, ""),
        ("ant_maze_v1", "v1", new, ""),
        ("ant_maze_v2", "v2", old, "_fixed"),
        ("ant_maze_new", "eval", {maze: f"{maze}_eval" for maze in old}, ""),
    ):
        for (maze, suffix), (multistart, multigoal) in _ANTMAZE.items():
            name, env = f"antmaze-{maze}{suffix}-{version}", maze
            if version == "eval":
                name, env = f"antmaze-eval-{maze}{suffix}-v0", f"eval-{maze}"
                multistart, multigoal = True, (maze, suffix) in _EVAL_MULTIGOAL
            file = f"Ant_maze_{mazes[maze]}_noisy_multistart_{multistart}_multigoal_{multigoal}"
            path = f"{folder}/{file}_sparse{end}.hdf5"
            env_id = f"stratdiff/AntMaze-{env}-v2"
            yield _d4rl(name, path, env_id, HORIZONS[maze], (0.0, 1.0))


def _maze2d() -> Iterator[Entry]:
    for name, returns in _MAZE2D_RETURNS.items():
        task, _, version = name.rpartition("-")
        maze = task.removeprefix("eval-").removesuffix("-dense")
        stem = f"maze2d-{task if task.endswith('-dense') else f'{task}-sparse'}"
        end = "" if version == "v0" else f"-{version}"
        horizon = _MAZE2D_HORIZONS[version][maze]
        yield _d4rl(f"maze2d-{name}", f"maze2d/{stem}{end}.hdf5", None, horizon, returns)


def _adroit() -> Iterator[Entry]:
    kinds = {
        "human": "v0_demos_clipped",
        "cloned": "demos-v0-bc-combined",
        "expert": "v0_expert_clipped",
    }
    for env, (returns, horizon, long) in _ADROIT.items():
        for kind, stem in kinds.items():
            for version, path in (
                ("v0", f"hand_dapg/{env}-{stem}.hdf5"),
                ("v1", f"hand_dapg_v1/{env}-{kind}-v1.hdf5"),
            ):
                yield _d4rl(f"{env}-{kind}-{version}", path, None, horizon, returns)
                if kind == "human":  # the same file
                    yield _d4rl(f"{env}-human-longhorizon-{version}", path, None, long, returns)


def _kitchen() -> Iterator[Entry]:
    for kind, file in _KITCHEN.items():
        yield _d4rl(f"kitchen-{kind}-v0", f"kitchen/{file}-v0.hdf5", None, 280, (0.0, 4.0))


def _minari() -> Iterator[Entry]:
    """Published ids, of Minari's documentation."""
    ids = [f"mujoco/{env}/{v}-v0" for env in _LOCOMOTION for v in ("simple", "medium", "expert")]
    ids += [f"D4RL/antmaze/{maze}{suffix}-v1" for maze, suffix in _ANTMAZE]
    mazes = ("open", "umaze", "medium", "large")
    ids += [f"D4RL/pointmaze/{maze}{dense}-v2" for maze in mazes for dense in ("", "-dense")]
    ids += [f"D4RL/{env}/{v}-v2" for env in _ADROIT for v in ("human", "cloned", "expert")]
    ids += [f"D4RL/kitchen/{kind}-v2" for kind in _KITCHEN]
    for name in ids:
        yield Entry(f"minari/{name}", "minari")
