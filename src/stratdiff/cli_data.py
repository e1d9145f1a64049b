"""The `stratdiff data` commands."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from stratdiff.data import catalogue, check, convert, d4rl, generate, info, sources
from stratdiff.data.dataset import Dataset, transition_rows
from stratdiff.errors import UserError, nearest
from stratdiff.tasks import Task, find_task, recipe_of
from stratdiff.train.track import Reporter

USAGE = """\
usage: stratdiff data COMMAND [options]

  list [WORD]         every data set known by name; with WORD, those whose name holds it
  make NAME           make a stratdiff/... set now, in any size and with any seed
  info NAME           what is in a data set, and how far it is from D4RL's own
  check FILE          does the environment's physics match the data?
  convert SOURCE OUT  write this package's HDF5 from Minari, .npz or a Recorder's log

NAME is a name from the list or the path of an HDF5 file.
`stratdiff data COMMAND --help` lists every option.
"""


@dataclasses.dataclass(frozen=True)
class _List:
    """Every data set known by name."""

    word: tyro.conf.Positional[str] = ""
    """Only names that hold this."""


@dataclasses.dataclass(frozen=True)
class _Make:
    """Make a stratdiff/... set from the shipped policies; the same bits on every run."""

    name: tyro.conf.Positional[str]
    """Its name in `stratdiff data list`."""
    size: int | None = None
    """Rows; None: as many as D4RL's set has."""
    seed: int = 0
    """Seed of all randomness."""
    jobs: int | None = None
    """Processes; None: one a core. The data do not depend on it."""


@dataclasses.dataclass(frozen=True)
class _Info:
    """What is in a data set: returns, scores, ends, states, distance to D4RL's own."""

    name: tyro.conf.Positional[str]
    """A name from the list, or the path of an HDF5 file."""
    env: str = ""
    """Gymnasium id of the environment; empty: the one the data set names."""
    plot: str = ""
    """Draw returns, scores along the set and visited states into this file (.png, .svg)."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclasses.dataclass(frozen=True)
class _Check:
    """Does the environment's physics match the data? Replays single steps."""

    file: tyro.conf.Positional[str]
    """The path of an HDF5 file, or a name from the list."""
    env: str = ""
    """Gymnasium id of the environment; empty: the one the file names."""
    rows: int = 2000
    """Steps to replay."""


@dataclasses.dataclass(frozen=True)
class _Convert:
    """Write this package's HDF5 from a Minari set, an .npz file or a Recorder's log."""

    source: tyro.conf.Positional[str]
    """minari/ID, FILE.npz or FILE.partial."""
    out: tyro.conf.Positional[str]
    """The HDF5 file to write."""
    env: str = ""
    """Gymnasium id of the environment; empty: the one the source names."""


class _Bar:
    """A progress callback; for downloads and for making data."""

    def __init__(self, name: str) -> None:
        self._name, self._reporter = name, Reporter()

    def __call__(self, done: int, total: int) -> None:
        self._reporter.begin(self._name, total)
        self._reporter.update(done)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._reporter.end()


def _local(entry: catalogue.Entry) -> Path | None:
    """The entry's file on this machine."""
    if entry.source == "stratdiff":
        path = generate.cached(entry.name)
        return path if path.is_file() else None
    return catalogue.d4rl_path(entry)


def _in_minari_store(entry: catalogue.Entry) -> bool:
    """Asked without Minari itself, which need not be installed."""
    store = os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets"
    return (Path(store) / entry.name.removeprefix("minari/")).is_dir()


def _list(options: _List) -> None:
    entries = [e for e in catalogue.entries() if options.word in e.name]
    if not entries:
        near = nearest(options.word, [e.name for e in catalogue.entries()])
        raise UserError(f"no data set's name holds {options.word!r}; nearest: {near}.")
    table = Table(box=None, pad_edge=False, caption=_LEGEND, caption_justify="left")
    for column in ("name", "environment"):
        table.add_column(column, overflow="fold")
    for column in ("rows", "episodes", "score", "here"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(*_line(entry))
    console = Console()
    # A pipe has no width: nothing is folded for the next program.
    console = console if console.is_terminal else Console(width=140)
    console.print(table, highlight=False)


_LEGEND = """\
score: lowest to highest normalised score of an episode, mean in brackets.
here: on this machine; the others are made or downloaded on first use.
environment: empty where --env has to name it, or the data set itself does."""


def _line(entry: catalogue.Entry) -> list[str]:
    rows, episodes, score, here = entry.rows, entry.episodes, "", ""
    path = _local(entry)
    if path is not None:
        try:
            returns, rows = _returns(path, entry)
            episodes, here = len(returns), "yes"
            if entry.reference_returns is not None and len(returns):
                low, high = entry.reference_returns
                scores = 100 * (returns - low) / (high - low)
                score = f"{scores.min():.0f} to {scores.max():.0f} ({scores.mean():.1f})"
        except UserError:
            here = "damaged"
    elif entry.source == "minari" and _in_minari_store(entry):
        here = "yes"
    numbers = [f"{n:,}" if n is not None else "" for n in (rows, episodes)]
    return [entry.name, entry.env_id or "", *numbers, score, here]


def _returns(path: Path, entry: catalogue.Entry) -> tuple[np.ndarray, int]:
    """(episode returns, rows) of a D4RL-format file, without its states and actions."""
    arrays = d4rl.read_arrays(path, ("rewards", "terminals", "timeouts"))
    flags = {key: arrays[key] > 0.5 for key in ("terminals", "timeouts") if key in arrays}
    terminals = flags["terminals"]
    ends, transitions = transition_rows(terminals, flags.get("timeouts"), entry.horizon)
    none = np.zeros((len(ends), 0), np.float32)
    dataset = Dataset("", None, none, none, arrays["rewards"], terminals, ends, transitions)
    return dataset.episodes(sparse=recipe_of(entry.env_id or "") == "antmaze")[1], len(ends)


def _make(options: _Make) -> None:
    with _Bar("rows") as bar:
        path = generate.make(options.name, options.size, options.seed, bar, options.jobs)
    recipe = generate.find(options.name)
    standard = options.size in (None, recipe.rows) and options.seed == 0
    console = Console()
    console.print(f"{path}", highlight=False, soft_wrap=True)
    use = options.name if standard else str(path)
    console.print(f"stratdiff train --dataset {use}", highlight=False, soft_wrap=True)


def _load(name: str, env: str) -> tuple[Dataset, Task | None]:
    with _Bar("data") as bar:
        dataset = sources.load_dataset(name, env, bar)
    env_id = env or dataset.env_id
    return dataset, find_task(env_id) if env_id else None


def _info(options: _Info) -> None:
    dataset, task = _load(options.name, options.env)
    found = info.describe(dataset, task)
    if options.json:
        print(json.dumps(info.to_dict(found), indent=2))
    else:
        Console().print(info.table(found))
    if options.plot:
        info.plot(dataset, task, options.plot)


def _check(options: _Check) -> None:
    path, env = Path(options.file), options.env
    if not sources.is_file(options.file):
        entry = catalogue.find(options.file)
        if entry.source == "minari":
            raise UserError(
                f"{options.file!r} is no file; write one first: stratdiff data convert "
                f"{options.file} OUT.hdf5."
            )
        _load(options.file, env)
        found = _local(entry)
        assert found is not None
        path, env = found, env or entry.env_id or ""
    Console().print(check.table(check.check(path, env, options.rows)))


def _convert(options: _Convert) -> None:
    convert.convert(options.source, options.out, options.env)
    print(options.out)


_COMMANDS: dict[str, tuple[Any, Any]] = {
    "list": (_List, _list),
    "make": (_Make, _make),
    "info": (_Info, _info),
    "check": (_Check, _check),
    "convert": (_Convert, _convert),
}


def main(args: list[str]) -> int:
    """Run `stratdiff data ARGS`; 2 for bad input."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    if args[0] not in _COMMANDS:
        raise UserError(
            f"unknown command 'data {args[0]}'; use one of {', '.join(_COMMANDS)} after `data`."
        )
    kind, run = _COMMANDS[args[0]]
    run(tyro.cli(kind, args=args[1:], prog=f"stratdiff data {args[0]}"))
    return 0
