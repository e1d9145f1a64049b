"""The `stratdiff` command: one file a command, imported when it is called."""

import argparse
import contextlib
import importlib
import os
import sys
import traceback
from pathlib import Path

from stratdiff import __version__, process
from stratdiff.errors import Interrupted, UserError
from stratdiff.reading import expanded

USAGE = """\
usage: stratdiff COMMAND [options]

  train         pre-train on logged data, then fine-tune online
  resume DIR    resume a run that was cut off
  show DIR      a run on one screen: what it is, its scores, where its time went
  eval DIR      run episodes of a run's policies
  compare SPEC  do the runs of an experiment: tasks x variants x seeds
  report DIR    make a page with figures and tables of finished runs
  video DIR     film a run's policy, or the one before fine-tuning beside the one after
  export DIR    write a run's policy for other programs: NumPy alone, or ONNX
  push DIR REPO put a finished run on the Hugging Face hub
  pull REPO     fetch one from there; show, eval and export also take hf://REPO
  data          list, make, describe, check and convert data sets
  completion    write a completion script for bash, zsh or fish

With any command, `--mirror URL` names another host of D4RL's and OGBench's files
($STRATDIFF_MIRRORS: several, separated by spaces).

`stratdiff COMMAND --help` lists every option with its default. With no options, `stratdiff train`
runs the demo on a data set that is made on first use. With --debug, every command shows where an
error came from.
"""

_COMMANDS = {
    "train": "train",
    "resume": "resume",
    "show": "show",
    "eval": "evaluate",
    "compare": "compare",
    "report": "report",
    "video": "video",
    "export": "export",
    "push": "push",
    "pull": "pull",
    "data": "data",
    "completion": "completion",
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


# What goes on without a reader or a terminal.
_TRAINING = ("train", "resume", "compare")


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code: 2 for bad input, 1 where something outside failed.

    Without `argv` it is the `stratdiff` program, with signals and standard streams of its own.
    """
    if argv is not None:
        return _command(argv)
    args = sys.argv[1:]
    if os.environ.get("NO_COLOR"):  # Rich honours it; tyro, which prints the help, asks for this
        os.environ["PYTHON_TYRO_ANSI_CODES"] = "False"
    training = any(word in _TRAINING for word in args[:2])
    process.take_signals(terminal_may_close=training)
    out, err = process.last(1), process.last(2)
    code = _command(args)
    error, _ = process.broken(out), process.broken(err)
    if error and not training and not isinstance(error, BrokenPipeError):
        print(f"error: the output could not be written ({error.strerror}).", file=sys.stderr)
        return code or 1
    return code


def _not_text(words: list[str]) -> str | None:
    """The first word, or the folder itself, that is no UTF-8: no run could name it in its files."""
    with contextlib.suppress(OSError):  # a folder that is gone
        words = [*words, str(Path.cwd())]
    return next((w for w in words if w != w.encode(errors="replace").decode()), None)


def _command(given: list[str]) -> int:
    args = _use_mirrors([_expanded(word) for word in given if word != "--debug"])
    if not args:
        from stratdiff.cli.start import advice

        print(advice(Path("runs")))
        return 0
    if args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if args[0] == "--version":
        print(__version__)
        return 0
    if args[0] not in _COMMANDS:
        print(
            f"error: unknown command {args[0]!r}; use one of {', '.join(_COMMANDS)}.",
            file=sys.stderr,
        )
        return 2
    if (word := _not_text(given)) is not None:
        shown = os.fsencode(word).decode(errors="backslashreplace")
        print(f"error: '{shown}' is no UTF-8 text; rename the file or folder.", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(f"stratdiff.cli.{_COMMANDS[args[0]]}").main(args[1:])
    except UserError as error:
        if "--debug" in given:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if not isinstance(error.filename, str | bytes | os.PathLike):
            raise
        if "--debug" in given:
            traceback.print_exc()
        where = os.fsdecode(error.filename).encode(errors="backslashreplace").decode()
        said = f"{where!r} cannot be used ({error.strerror}); check the path and its permissions."
        print(f"error: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        again = "`stratdiff resume DIR`" if args[0] in ("train", "resume") else "the same command"
        print(f"\ninterrupted; {again} goes on from what was saved last.", file=sys.stderr)
        return error.exit_code if isinstance(error, Interrupted) else 130
