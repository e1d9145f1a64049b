"""The `stratdiff data` commands."""

import contextlib
import sys
from collections.abc import Iterator
from json import dumps
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from stratdiff import registry
from stratdiff.cli.parsing import at_least
from stratdiff.data import hdf5, sources
from stratdiff.data.dataset import Dataset, transition_rows
from stratdiff.data.made import store
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
  convert SOURCE OUT  write HDF5 or a Minari set from another source, file, log or run

NAME is a name from the list, the path of an HDF5 file, or module:Class/NAME of your own source.
`stratdiff data COMMAND --help` lists every option.
"""


@contextlib.contextmanager
def _bar(name: str) -> Iterator[sources.Progress]:
    """A progress callback; for downloads and for making data."""
    reporter = Reporter()

    def show(done: int, total: int) -> None:
        reporter.begin(name, total)
        reporter.update(done)

    try:
        yield show
    finally:
        reporter.end()


def _list(word: Positional[str] = "") -> None:
    """Every data set known by name.

    Args:
        word: Only names that hold this.
    """
    known = sources.entries()
    entries = [entry for entry in known if word in entry.name]
    if not entries:
        near = nearest(word, [entry.name for entry in known])
        raise UserError(f"no data set's name holds {word!r}; nearest: {near}.")
    table = Table(box=None, pad_edge=False, caption=_LEGEND, caption_justify="left")
    for column in ("name", "environment"):
        table.add_column(column, overflow="fold")
    for column in ("rows", "episodes", "score", "here"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(*_line(entry))
    console = Console(markup=False)
    # A pipe has no width: nothing is folded for the next program.
    console = console if console.is_terminal else Console(width=140, markup=False)
    console.print(table, highlight=False)


_LEGEND = """\
score: lowest to highest normalised score of an episode, mean in brackets.
here: on this machine; the others are made or downloaded on first use.
environment: empty where --env has to name it, or the data set itself does."""


def _line(entry: sources.Entry) -> list[str]:
    rows, episodes, score = entry.rows, entry.episodes, ""
    source, _ = sources.locate(entry.name)
    path = source.local(entry)
    here = "" if path is None else "yes"
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


def _make(
    name: Positional[str], size: int | None = None, seed: int = 0, jobs: int | None = None
) -> None:
    """Make a stratdiff/... set from the shipped policies; the same bits on every run.

    Args:
        name: Its name in `stratdiff data list`.
        size: Rows; None: as many as D4RL's set has.
        seed: Seed of all randomness.
        jobs: Processes; None: one a core. The data do not depend on it.
    """
    at_least("--seed", seed, 0)
    at_least("--jobs", jobs, 1)
    with _bar("rows") as bar:
        path = store.make(name, size, seed, bar, jobs)
    use = name if path == store.cached(name) else path
    text = f"{path}\nstratdiff train --dataset {use}"
    Console(markup=False).print(text, highlight=False, soft_wrap=True)


def _load(name: str, env: str) -> Dataset:
    with _bar("data") as bar:
        return sources.load(name, env, bar)


def _info(
    name: Positional[str],
    env: str = "",
    plot: str = "",
    json: bool = False,
    trust_modules: bool = False,
) -> None:
    """What is in a data set: returns, scores, ends, states, distance to D4RL's own.

    Args:
        name: A name from the list, or the path of an HDF5 file.
        env: Gymnasium id of the environment; empty: the one the data set names.
        plot: Draw returns, scores along the set and visited states into this file (.png, .svg).
        json: Print JSON instead of tables.
        trust_modules: Import every module:Name that a data file names.
    """
    dataset = _load(name, env)
    # The environment itself is not needed, so one that only the file names is not made.
    task = find_task(env) if env else task_of(dataset, dataset.env_id or "")
    found = info.describe(dataset, task)
    if json:
        print(dumps(info.to_dict(found), indent=2))
    else:
        Console(markup=False).print(info.table(found))
    if plot:
        from stratdiff.data.tools import plot as picture  # it loads Matplotlib

        picture.plot(dataset, task, plot)


def _check(
    file: Positional[str], env: str = "", rows: int = 2000, trust_modules: bool = False
) -> None:
    """Does the environment's physics match the data? Replays single steps.

    Args:
        file: The path of an HDF5 file, or a name from the list.
        env: Gymnasium id of the environment; empty: the one the file names.
        rows: Steps to replay.
        trust_modules: Import every module:Name that a data file names.
    """
    from stratdiff.data.tools import check, verdict  # they load the simulator

    at_least("--rows", rows, 1)
    source, entry = sources.locate(file)
    if not source.keeps_hdf5:
        raise UserError(
            f"{file!r} is no file; write one first: stratdiff data convert {file} OUT.hdf5."
        )
    if source.local(entry) is None:
        _load(file, env)
    path = source.local(entry)
    assert path is not None
    Console(markup=False).print(verdict.table(check.check(path, env or entry.env_id or "", rows)))


def _convert(
    source: Positional[str],
    out: Positional[str],
    env: str = "",
    keys: tuple[str, ...] = (),
    trust_modules: bool = False,
) -> None:
    """Write this package's HDF5, or a Minari set, from another source, file, log or run.

    Args:
        source: A name from the list or of your own source, an HDF5 file, FILE.npz, FILE.partial
            of a Recorder, or RUN/replay: what a run collected online (RUN/replay/SEED: what one of
            its seeds did).
        out: The HDF5 file to write; or minari/NAME-v0, for Minari's local store.
        env: Gymnasium id of the environment; empty: the one the source names.
        keys: What the file's arrays are, as ROLE=NAME: observations, actions, rewards, terminals
            (real ends), timeouts (time limits), ends (both) or next_observations. NAME,NAME puts
            arrays side by side; an empty NAME leaves the role out.
        trust_modules: Import every module:Name that a data file names.
    """
    from stratdiff.training import collected  # it loads Orbax

    run = collected.run_of(source)
    data = source if run is None else collected.collected(*run)
    note = convert.convert(data, out, env, keys)
    if note:
        print(f"read {note}", file=sys.stderr)
    print(out)


_COMMANDS = {command.__name__[1:]: command for command in (_list, _make, _info, _check, _convert)}


def main(args: list[str]) -> int:
    """Run `stratdiff data ARGS`; 2 for bad input."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    if args[0] not in _COMMANDS:
        raise UserError(
            f"unknown command 'data {args[0]}'; use one of {', '.join(_COMMANDS)} after `data`."
        )
    # What stands on the command line may be imported.
    registry.trust(*args, *(word.partition("=")[2] for word in args))
    if "--trust-modules" in args:
        registry.trust("*")
    tyro.cli(_COMMANDS[args[0]], args=args[1:], prog=f"stratdiff data {args[0]}")
    return 0
