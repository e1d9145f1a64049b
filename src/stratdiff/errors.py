"""Errors that are not ours: the command line prints them as one sentence and their exit code."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UserError(Exception):
    """Bad input. The message names what was found, what was expected and what to do."""

    exit_code: ClassVar[int] = 2


class TrainingDiverged(UserError):
    """A loss is no longer a finite number."""


class RunStopped(UserError):
    """Something outside failed during a run (a disk, an environment); what was saved is safe."""

    exit_code: ClassVar[int] = 1


def nearest(word: str, known: Iterable[str]) -> str:
    """The known words most like `word`, for an error message."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5) or known[:6]
    return ", ".join(close)


def some(words: Iterable[str], most: int = 12) -> str:
    """The words with commas, for an error message; of many, the first ones and how many more."""
    words = [*words]
    rest = len(words) - most
    listed = ", ".join(words[:most]) or "nothing"
    return f"{listed} and {rest:,} more" if rest > 0 else listed
