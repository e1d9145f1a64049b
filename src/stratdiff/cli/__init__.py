"""The `stratdiff` command: one file a command, imported when it is called."""

import argparse
import importlib
import os
import sys

from stratdiff import __version__
from stratdiff.errors import UserError
from stratdiff.reading import expanded

USAGE = """\
usage: stratdiff COMMAND [options]

  train         pre-train on logged data, then fine-tune online
  resume DIR    resume a run that was cut off
  eval DIR      run episodes of a run's policies
  compare SPEC  do the runs of an experiment: tasks x variants x seeds
  report DIR    make a page with figures and tables of finished runs
  data          list, make, describe, check and convert data sets

With any command, `--mirror URL` names another host of D4RL's files ($STRATDIFF_MIRRORS: several,
separated by spaces).

`stratdiff COMMAND --help` lists every option with its default. With no options, `stratdiff train`
runs the demo on a data set that is made on first use.
"""

_COMMANDS = {
    "train": "train",
    "resume": "resume",
    "eval": "evaluate",
    "compare": "compare",
    "report": "report",
    "data": "data",
}


def _expanded(word: str) -> str:
    """A word or an option's value, with the home folder for `~`: shells leave `--out=~/x` alone."""
    option, equals, value = word.partition("=")
    if option.startswith("--") and equals:
        return f"{option}={expanded(value)}"
    return expanded(word)


def _use_mirrors(args: list[str]) -> list[str]:
    """The arguments without `--mirror URL`, which goes into the environment of child processes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--mirror", action="append")
    found, rest = parser.parse_known_args(args)
    if found.mirror:
        from stratdiff.data.d4rl import MIRRORS

        os.environ[MIRRORS] = " ".join([*found.mirror, os.environ.get(MIRRORS, "")])
    return rest


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code: 2 for bad input, 1 where something outside failed."""
    args = [_expanded(word) for word in (sys.argv[1:] if argv is None else argv)]
    args = _use_mirrors(args)
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
        return importlib.import_module(f"stratdiff.cli.{_COMMANDS[args[0]]}").main(args[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "\ninterrupted; `stratdiff resume DIR`, or the same `compare`, goes on from the last "
            "checkpoint.",
            file=sys.stderr,
        )
        return 130
