"""The `stratdiff` command."""

import dataclasses
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratdiff import __version__
from stratdiff.config import Config, Preset, make_config, read_config
from stratdiff.errors import UserError

USAGE = """\
usage: stratdiff COMMAND [options]

  train         pre-train on logged data, then fine-tune online
  resume DIR    go on with a run that was cut off
  eval DIR      run episodes of a run's policies
  compare SPEC  do the runs of an experiment: tasks x variants x seeds
  report DIR    make a page with figures and tables of finished runs
  data          list, make, describe, check and convert data sets

`stratdiff COMMAND --help` lists every option with its default. With no options, `stratdiff train`
runs the demo on a data set that is made on first use.
"""


@dataclasses.dataclass(frozen=True)
class _Start:
    """Options that choose the defaults of all others."""

    preset: Preset = "demo"
    """demo: minutes on two CPU cores; paper: the paper's lengths and sizes."""
    config: str = ""
    """A run's config.json: repeat that run; other options override it."""
    out: str = ""
    """Run directory; empty: runs/DATASET-BASE-METHOD-TIME."""


@dataclasses.dataclass(frozen=True)
class _Train:
    """Pre-train on logged data, then fine-tune online with stratified updates."""

    start: Annotated[_Start, tyro.conf.arg(name="")]
    run: Annotated[Config, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class _Resume:
    """Go on with a run that was cut off; it ends as if it had never been."""

    directory: tyro.conf.Positional[str]
    """The run directory."""


@dataclasses.dataclass(frozen=True)
class _Eval:
    """Run episodes of a run's policies."""

    directory: tyro.conf.Positional[str]
    """The run directory."""
    episodes: int = 10
    """Episodes per policy."""
    seed: int | None = None
    """Seed of the episodes; None: those of the run's own evaluations."""


@dataclasses.dataclass(frozen=True)
class _Compare:
    """Do the runs of an experiment that are missing; what is done is skipped."""

    spec: tyro.conf.Positional[str]
    """The experiment's TOML file (docs/experiments.md)."""
    out: str = ""
    """Directory of its runs; empty: runs/NAME, after the file's name."""
    ray: bool = False
    """Run cells side by side on a Ray cluster, or on this machine's cores where there is none."""


@dataclasses.dataclass(frozen=True)
class _Report:
    """Make one HTML page, figures and tables of finished runs."""

    directories: tyro.conf.Positional[tuple[str, ...]]
    """Run directories, directories above them, or an earlier report's results.json."""
    out: str = "report"
    """Directory of the report; an earlier report there is replaced."""


def _parse(
    kind: Any, args: list[str], flags: Any = tyro.conf.FlagConversionOff, **default: Any
) -> Any:
    name = kind.__name__.strip("_").lower()
    return tyro.cli(kind, args=args, prog=f"stratdiff {name}", config=(flags,), **default)


def _value(args: list[str], option: str) -> str | None:
    """The value of an option before the real parsing."""
    for i, word in enumerate(args):
        if word == option and i + 1 < len(args):
            return args[i + 1]
        if word.startswith(option + "="):
            return word.split("=", 1)[1]
    return None


def _train(args: list[str]) -> int:
    from stratdiff.training.run import train

    path = _value(args, "--config")
    if path is not None:
        default = read_config(path)
    else:
        early = ("recipe", "preset", "dataset", "env")
        options = {k: v for k in early if (v := _value(args, f"--{k}")) is not None}
        default = make_config(**{"preset": "demo", **options})
    parsed = _parse(_Train, args, default=_Train(_Start(), default))
    config = parsed.run
    config.validate()
    name = Path(config.dataset).name.removesuffix(".hdf5")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = parsed.start.out or f"runs/{name}-{config.base}-{config.method}-{stamp}"
    return _show(train(config, out))


def _resume(args: list[str]) -> int:
    from stratdiff.training.run import resume

    return _show(resume(_parse(_Resume, args).directory))


def _eval(args: list[str]) -> int:
    from stratdiff.training.run import evaluate

    parsed = _parse(_Eval, args)
    if parsed.episodes < 1:
        raise UserError(f"--episodes is {parsed.episodes}; it must be 1 or more.")
    found = evaluate(parsed.directory, parsed.episodes, parsed.seed)
    table = Table(title=f"{found['environment']}, {parsed.episodes} episodes")
    for column in ("seed", "score", "± over episodes", "return"):
        table.add_column(column, justify="right")
    for row in zip(*(found[k] for k in ("seeds", "score", "score_std", "return")), strict=True):
        table.add_row(str(row[0]), *(f"{x:.1f}" for x in row[1:]))
    Console().print(table)
    return 0


def _compare(args: list[str]) -> int:
    from stratdiff.compare import compare, read_spec

    parsed = _parse(_Compare, args, tyro.conf.FlagCreatePairsOff)
    out = Path(parsed.out or f"runs/{Path(parsed.spec).stem}")
    cells = read_spec(parsed.spec)
    # Otherwise the run in progress would go on without its parent.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = compare(cells, out, parsed.ray)
    for name, reason in failed.items():
        print(f"error: {name}: {reason}", file=sys.stderr)
    if len(failed) < len(cells):
        print(f"the runs: {out}/; a page of them: stratdiff report {out}")
    return 1 if failed else 0


def _report(args: list[str]) -> int:
    from stratdiff.report.page import report, short_rows

    parsed = _parse(_Report, args)
    runs, left_out = report(parsed.directories, parsed.out)
    for missing in left_out:
        print(f"left out: {missing.path}: {missing.reason}.", file=sys.stderr)
    table = Table(title="score, mean over the seeds")
    for column in ("task", "base", "variant"):
        table.add_column(column, overflow="fold")
    for column in ("before", "after", "over base [95 %]"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in short_rows(runs):
        table.add_row(*map(Text, row))
    Console().print(table)
    print(f"the page: {Path(parsed.out) / 'index.html'}")
    return 0


def _show(result: Any) -> int:
    """The small table at the end of a run."""
    summary = result.summary
    table = Table(title="normalised score" if summary["normalized"] else "return")
    for column in ("seed", "before", "after"):
        table.add_column(column, justify="right")
    before, after = result.scores["before"], result.scores["after"]
    for seed, b, a in zip(summary["seeds"], before, after, strict=True):
        table.add_row(str(seed), f"{b:.1f}", f"{a:.1f}")
    score = summary["score"]
    table.add_section()
    table.add_row("mean", *(f"{score[when]['mean']:.1f}" for when in ("before", "after")))
    console = Console()
    console.print(table)
    data = summary["dataset"]
    if data["mean_score"] is not None:
        console.print(f"mean episode of the data: {data['mean_score']:.1f}", highlight=False)
    total = sum(summary["seconds"].values())
    console.print(f"{total / 60:.1f} minutes; results in {result.directory}/", highlight=False)
    console.print("  curves.png  summary.json  metrics.jsonl  policy.safetensors  config.json")
    return 0


def _data(args: list[str]) -> int:
    from stratdiff import cli_data

    return cli_data.main(args)


_COMMANDS = {
    "train": _train,
    "resume": _resume,
    "eval": _eval,
    "compare": _compare,
    "report": _report,
    "data": _data,
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; 2 for bad input."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    if args[0] == "--version":
        print(__version__)
        return 0
    if args[0] not in _COMMANDS:
        print(
            f"error: unknown command {args[0]!r}; use one of {', '.join(_COMMANDS)}.",
            file=sys.stderr,
        )
        return 2
    try:
        return _COMMANDS[args[0]](args[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ninterrupted; `stratdiff resume DIR`, or the same `compare`, goes on from the last "
            "checkpoint.",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
