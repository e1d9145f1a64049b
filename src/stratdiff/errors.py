"""Errors that are not ours: the command line prints them as one sentence and their exit code."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UserError(Exception):
    """Bad input. The message names what was found, what was expected and what to do."""

    exit_code: ClassVar[int] = 2

    def __str__(self) -> str:
        # What was found may be of any length.
        text = super().__str__()
        return text if len(text) <= 2000 else f"{text[:1500]} [...] {text[-300:]}"


class TrainingDiverged(UserError):
    """A loss is no longer a finite number."""


class RunStopped(UserError):
    """Something outside failed during a run (a disk, an environment); what was saved is safe."""

    exit_code: ClassVar[int] = 1


class BadEnvironment(UserError):
    """An environment failed or gave something that no environment may give."""

    def __init__(self, fact: str, advice: str = "mend the environment") -> None:
        """`fact`: what happened, for whoever knows better what to do now."""
        super().__init__(f"{fact}; {advice}.")
        self.fact = fact


def last_line(error: BaseException) -> str:
    """The kind of an error and the last line of what it says, as a traceback ends."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}".rstrip(".") if lines else type(error).__name__


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came: the run or the command stops. No `except Exception` swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = 128 + number


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
