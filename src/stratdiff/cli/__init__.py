"""The `stratdiff` command: one file a command, imported when it is called."""

import importlib
import sys
import traceback

from stratdiff import __version__
from stratdiff.errors import UserError

USAGE = """\
usage: stratdiff COMMAND [options]

  train         pre-train on logged data, then fine-tune online
  resume DIR    resume a run that was cut off
  eval DIR      run episodes of a run's policies
  compare SPEC  do the runs of an experiment: tasks x variants x seeds
  report DIR    make a page with figures and tables of finished runs
  data          list, make, describe, check and convert data sets

`stratdiff COMMAND --help` lists every option with its default. With no options, `stratdiff train`
runs the demo on a data set that is made on first use. With --debug, every command shows where an
error came from.
"""

_COMMANDS = {
    "train": "train",
    "resume": "resume",
    "eval": "evaluate",
    "compare": "compare",
    "report": "report",
    "data": "data",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code: 2 for bad input, 1 where something outside failed."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = [word for word in given if word != "--debug"]
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
        if "--debug" in given:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "\ninterrupted; `stratdiff resume DIR`, or the same `compare`, goes on from the last "
            "checkpoint.",
            file=sys.stderr,
        )
        return 130
