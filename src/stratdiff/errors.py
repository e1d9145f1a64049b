"""Errors that are the user's to fix: the command line prints them as one sentence, exit code 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message names what was found, what was expected and what to do."""


class TrainingDiverged(UserError):
    """A loss is no longer a finite number."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known words most like `word`, for an error message."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5) or known[:6]
    return ", ".join(close)
