"""The `stratdiff data` commands."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from stratdiff import registry
from stratdiff.data import hdf5, sources
from stratdiff.data.dataset import Dataset, transition_rows
from stratdiff.data.made import recipes, store
from stratdiff.data.tools import convert, info
from stratdiff.errors import UserError, nearest
from stratdiff.sinks.progress import Reporter
from stratdiff.tasks import find_task, recipe_of, task_of

USAGE = """\
usage: stratdiff data COMMAND [options]

  list [WORD]         every data set known by name; with WORD, those whose name holds it
  make NAME           make a stratdiff/... set now, in any size and with any seed
  info NAME           what is in a data set, and how far it is from D4RL's own
  check FILE          does the environment's physics match the data?
  convert SOURCE OUT  write this package's HDF5 from another source, .npz or a Recorder's log

NAME is a name from the list, the path of an HDF5 file, or module:Class/NAME of your own source.
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
    """minari/ID (or a name of your own source), FILE.npz or FILE.partial."""
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


def _list(options: _List) -> None:
    known = sources.entries()
    entries = [entry for entry in known if options.word in entry.name]
    if not entries:
        near = nearest(options.word, [entry.name for entry in known])
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


def _line(entry: sources.Entry) -> list[str]:
    rows, episodes, score, here = entry.rows, entry.episodes, "", ""
    source, _ = sources.locate(entry.name)
    path = source.local(entry)
    if path is not None:
        here = "yes"
    if path is not None and source.keeps_hdf5:
        try:
            returns, rows = _returns(path, entry)
            episodes = len(returns)
            if entry.reference_returns is not None and len(returns):
                low, high = entry.reference_returns
                scores = 100 * (returns - low) / (high - low)
                score = f"{scores.min():.0f} to {scores.max():.0f} ({scores.mean():.1f})"
        except UserError:
            here = "damaged"
    numbers = [f"{n:,}" if n is not None else "" for n in (rows, episodes)]
    return [entry.name, entry.env_id or "", *numbers, score, here]


def _returns(path: Path, entry: sources.Entry) -> tuple[np.ndarray, int]:
    """(episode returns, rows) of a D4RL-format file, without its states and actions."""
    arrays = hdf5.read_arrays(path, ("rewards", "terminals", "timeouts"))
    flags = {key: arrays[key] > 0.5 for key in ("terminals", "timeouts") if key in arrays}
    terminals = flags["terminals"]
    ends, transitions = transition_rows(terminals, flags.get("timeouts"), entry.horizon)
    none = np.zeros((len(ends), 0), np.float32)
    dataset = Dataset("", None, none, none, arrays["rewards"], terminals, ends, transitions)
    return dataset.episodes(sparse=recipe_of(entry.env_id or "") == "antmaze")[1], len(ends)


def _make(options: _Make) -> None:
    with _Bar("rows") as bar:
        path = store.make(options.name, options.size, options.seed, bar, options.jobs)
    recipe = recipes.find(options.name)
    standard = options.size in (None, recipe.rows) and options.seed == 0
    console = Console()
    console.print(f"{path}", highlight=False, soft_wrap=True)
    use = options.name if standard else str(path)
    console.print(f"stratdiff train --dataset {use}", highlight=False, soft_wrap=True)


def _load(name: str, env: str) -> Dataset:
    with _Bar("data") as bar:
        return sources.load_dataset(name, env, bar)


def _info(options: _Info) -> None:
    dataset = _load(options.name, options.env)
    # The environment itself is not needed, so one that only the file names is not made.
    task = find_task(options.env) if options.env else task_of(dataset, dataset.env_id or "")
    found = info.describe(dataset, task)
    if options.json:
        print(json.dumps(info.to_dict(found), indent=2))
    else:
        Console().print(info.table(found))
    if options.plot:
        from stratdiff.data.tools.plot import plot  # it loads Matplotlib

        plot(dataset, task, options.plot)


def _check(options: _Check) -> None:
    from stratdiff.data.tools import check, verdict  # they load the simulator

    source, entry = sources.locate(options.file)
    if not source.keeps_hdf5:
        raise UserError(
            f"{options.file!r} is no file; write one first: stratdiff data convert "
            f"{options.file} OUT.hdf5."
        )
    if source.local(entry) is None:
        _load(options.file, options.env)
    path = source.local(entry)
    assert path is not None
    env = options.env or entry.env_id or ""
    Console().print(verdict.table(check.check(path, env, options.rows)))


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
    options = tyro.cli(kind, args=args[1:], prog=f"stratdiff data {args[0]}")
    # What stands on the command line may be imported.
    registry.trust(*(value for value in vars(options).values() if isinstance(value, str)))
    run(options)
    return 0
