"""D4RL's data sets: their names and addresses, found on this machine or downloaded.

What D4RL's own files are off by (issues of Farama-Foundation/D4RL): AntMaze v0 and v1 have timeouts
out of step with the ends of trajectories (77; v2 has not), maze2d's timeouts mark sub-goals (85)
and its rewards are one row late (194).
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from stratdiff.data import download, hdf5
from stratdiff.data.dataset import Dataset
from stratdiff.data.sources import Entry, Progress, Source
from stratdiff.envs.mazes import HORIZONS
from stratdiff.errors import UserError
from stratdiff.reading import expanded, home
from stratdiff.tasks import Returns, facts

# Names, addresses, reference returns and horizons are those registered in d4rl/ at 89141a6.

SERVERS = ("http://rail.eecs.berkeley.edu/datasets/offline_rl/",)
"""Hosts of D4RL's files, tried in turn after those that the user names."""
MIRRORS = "STRATDIFF_MIRRORS"
"""Environment variable with addresses of further hosts, separated by spaces."""
VARIANTS = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
"""Of the policies that collected a locomotion set."""
SIZES: dict[str, tuple[int, int | None]] = {
    **{f"halfcheetah-{kind}-v2": (1_000_000, 1000) for kind in ("random", "medium", "expert")},
    "halfcheetah-medium-replay-v2": (202_000, 202),
    "hopper-medium-replay-v2": (402_000, None),
    "walker2d-medium-replay-v2": (302_000, None),
}
ANTMAZES = (
    "umaze",
    "umaze-diverse",
    *(f"{m}-{k}" for m in ("medium", "large") for k in ("play", "diverse")),
)
"""Maze, then the kind of goals that the collecting ant had."""
# The eval mazes' files that are multigoal by their name; all are multistart.
_EVAL_MULTIGOAL = ("umaze-diverse", "medium-play", "large-play")
# Maze and version: horizon, reference returns with sparse and with dense rewards.
_MAZE2D: dict[tuple[str, str], tuple[int, Returns, Returns]] = {
    ("open", "v0"): (150, (0.01, 20.66), (11.17817, 27.166538620695782)),
    ("umaze", "v0"): (150, (0.94, 62.6), (23.249793, 81.78995240126592)),
    ("medium", "v0"): (250, (5.77, 85.14), (19.47762, 96.03474232952358)),
    ("large", "v0"): (600, (4.83, 191.99), (27.38831, 215.09965671563742)),
    ("umaze", "v1"): (300, (23.85, 161.86), (68.537689, 193.66285642381482)),
    ("medium", "v1"): (600, (13.13, 277.39), (44.264742, 297.4552547777125)),
    ("large", "v1"): (800, (6.7, 273.99), (30.569041, 303.4857382709002)),
    ("eval-umaze", "v1"): (300, (36.63, 141.4), (56.95455, 178.21373133248397)),
    ("eval-medium", "v1"): (600, (13.07, 204.93), (42.28578, 235.5658957482388)),
    ("eval-large", "v1"): (800, (16.4, 302.22), (56.95455, 326.09647655082637)),
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


class D4RL(Source):
    """D4RL's own files, kept where D4RL itself keeps them."""

    keeps_hdf5 = True

    def entries(self) -> tuple[Entry, ...]:
        return _entries(self.prefix)

    def local(self, entry: Entry) -> Path | None:
        places = (folder / _file(entry) for folder in _folders())
        return next((path for path in places if path.is_file()), None)

    def load(self, entry: Entry, env: str = "", progress: Progress | None = None) -> Dataset:
        path = self.local(entry)
        if path is None:
            path = target(entry)
            download.fetch(addresses(entry), path, progress, lambda file: _check(file, entry))
        dataset = hdf5.read(path, entry.horizon, entry.name)
        # Made years before MuJoCo 3; their files do not say with which version.
        about = {**dataset.metadata, "mujoco": "2"}
        return dataclasses.replace(dataset, env_id=dataset.env_id or entry.env_id, metadata=about)


def addresses(entry: Entry, server: str = SERVERS[0]) -> list[str]:
    """Where the file of an entry is looked for: on the user's mirrors, then on the known hosts.

    A mirror has the folders of the known `server`, or all files in one.
    """
    out = []
    for mirror in os.environ.get(MIRRORS, "").split():
        path = entry.urls[0].removeprefix(server)
        out += [f"{mirror.rstrip('/')}/{place}" for place in dict.fromkeys((path, _file(entry)))]
    return [*out, *entry.urls]


def _check(path: Path, entry: Entry) -> None:
    """Refuse what is no D4RL file of the size that is known, such as a server's page of errors."""
    if entry.sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != entry.sha256:
            raise UserError(f"its SHA-256 is {found}, not {entry.sha256}")
    rows = len(hdf5.read_arrays(path, ["rewards"]).get("rewards", ()))
    if rows != (entry.rows or rows) or not rows:
        raise UserError(f"it has {rows:,} rewards, not {entry.rows or 'one a row'}")


def target(entry: Entry) -> Path:
    """Where an entry's file is downloaded to."""
    return _folders()[0] / _file(entry)


def _file(entry: Entry) -> str:
    """What D4RL calls the file on disk: as on the server."""
    return entry.urls[0].rpartition("/")[2]


def _folders() -> list[Path]:
    chosen = os.environ.get("D4RL_DATASET_DIR")
    return [*([Path(expanded(chosen))] if chosen else []), home() / ".d4rl" / "datasets"]


@functools.cache
def _entries(prefix: str) -> tuple[Entry, ...]:
    found = [*_locomotion(), *_antmaze(), *_maze2d(), *_adroit(), *_kitchen()]
    return tuple(dataclasses.replace(entry, name=prefix + entry.name) for entry in found)


def _entry(name: str, path: str, env_id: str | None, horizon: int, returns: Returns) -> Entry:
    """`path` is the file's on the server."""
    rows, episodes = SIZES.get(name, (None, None))
    return Entry(name, env_id, horizon, returns, rows, episodes, tuple(s + path for s in SERVERS))


def _locomotion() -> Iterator[Entry]:
    for family in ("HalfCheetah", "Hopper", "Walker2d", "Ant"):
        env = family.lower()
        # D4RL's ant has 111 observations, 84 of them contact forces: not those of Ant-v4.
        env_id, returns = f"{family}-v4", facts(f"{family}-v4").reference_returns
        assert returns is not None
        for variant in (*VARIANTS, "random-expert"):
            for version in ("v0", "v1", "v2"):
                stem = f"{env}_{variant.replace('-', '_')}"
                path = f"gym_mujoco_{version}/{stem}-{version}.hdf5"
                if variant == "random-expert" and (env, version) != ("ant", "v0"):
                    continue
                if version == "v0":
                    if variant == "full-replay":
                        continue
                    if variant == "medium-replay":
                        stem = f"{'walker' if env == 'walker2d' else env}_mixed"
                    path = f"gym_mujoco/{stem}.hdf5"
                made_in = None if env == "ant" else env_id
                yield _entry(f"{env}-{variant}-{version}", path, made_in, 1000, returns)


def _antmaze() -> Iterator[Entry]:
    old = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
    new = {maze: maze for maze in old}
    for folder, version, mazes, end in (
        ("ant_maze_new", "v0", old, ""),
        ("ant_maze_v1", "v1", new, ""),
        ("ant_maze_v2", "v2", old, "_fixed"),
        ("ant_maze_new", "eval", {maze: f"{maze}_eval" for maze in old}, ""),
    ):
        for variant in ANTMAZES:
            maze = env = variant.partition("-")[0]
            name = f"antmaze-{variant}-{version}"
            multistart, multigoal = variant != "umaze", variant.endswith("-diverse")
            if version == "eval":
                name, env = f"antmaze-eval-{variant}-v0", f"eval-{maze}"
                multistart, multigoal = True, variant in _EVAL_MULTIGOAL
            file = f"Ant_maze_{mazes[maze]}_noisy_multistart_{multistart}_multigoal_{multigoal}"
            path = f"{folder}/{file}_sparse{end}.hdf5"
            env_id = f"stratdiff/AntMaze-{env}-v2"
            yield _entry(name, path, env_id, HORIZONS[maze], (0.0, 1.0))


def _maze2d() -> Iterator[Entry]:
    for (maze, version), (horizon, *references) in _MAZE2D.items():
        end = "" if version == "v0" else f"-{version}"
        for kind, returns in zip(("sparse", "dense"), references, strict=True):
            name = f"maze2d-{maze}{'-dense' if kind == 'dense' else ''}-{version}"
            path = f"maze2d/maze2d-{maze}-{kind}{end}.hdf5"
            yield _entry(name, path, None, horizon, returns)


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
                yield _entry(f"{env}-{kind}-{version}", path, None, horizon, returns)
                if kind == "human":  # the same file
                    yield _entry(f"{env}-human-longhorizon-{version}", path, None, long, returns)


def _kitchen() -> Iterator[Entry]:
    for kind, file in _KITCHEN.items():
        yield _entry(f"kitchen-{kind}-v0", f"kitchen/{file}-v0.hdf5", None, 280, (0.0, 4.0))
