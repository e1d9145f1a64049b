"""Exchangeable parts by name: the package's own, or anybody's as `module:Name`.

A `module:Name` is code. One that stands only in a file (a run's config, a data file's environment)
is imported only after the user has named it on the command line or in a program (`trust`), or has
passed `--trust-modules`.
"""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar, cast

from stratdiff.errors import UserError, nearest

T = TypeVar("T")

_ANY_MODULE = "*"
_trusted: set[str] = set()


def trust(*names: str) -> None:
    """Let these names (`module:Name`) be imported wherever they turn up; '*' stands for all."""
    _trusted.update(name for name in names if ":" in name or name == _ANY_MODULE)


def trusted() -> list[str]:
    """What `trust` was told, for a child process."""
    return sorted(_trusted)


def is_trusted(name: str) -> bool:
    """Whether a `module:Name` may be imported."""
    return bool(_trusted & {name, _ANY_MODULE})


def check_trusted(name: str, option: str) -> None:
    """Refuse a `module:Name` that nobody but a file has named.

    Raises:
        UserError: the name is not trusted.
    """
    if ":" in name and not is_trusted(name):
        raise UserError(
            f"{name!r} is code that a file names as {option}; to let it be imported, pass "
            f"--trust-modules, or give {option} {name} to `stratdiff train`."
        )


def import_name(name: str, option: str) -> Any:
    """What `module:Name` stands for.

    Raises:
        UserError: the name is not trusted, or its module or the name in it cannot be had.
    """
    check_trusted(name, option)
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise UserError(
            f"{option} is {name!r}, but module {module!r} could not be imported "
            f"({type(error).__name__}: {error}); check the name and that the module is on "
            "PYTHONPATH."
        ) from error
    if not hasattr(found, attribute):
        raise UserError(
            f"{option} is {name!r}, but module {module!r} has no {attribute!r}; nearest: "
            f"{nearest(attribute, vars(found))}."
        )
    return getattr(found, attribute)


class Registry(Generic[T]):
    """The parts of one kind: names to classes, imported when they are first asked for."""

    def __init__(
        self, option: str, known: Mapping[str, str], members: Iterable[str] = ("name",)
    ) -> None:
        """`option` is how the user chooses one (`--base`); `known` maps names to `module:Class`.

        `members` are attributes that a class from outside must have.
        """
        self.option, self._known, self._members = option, dict(known), tuple(members)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def names(self) -> tuple[str, ...]:
        """The package's own, in order."""
        return tuple(self._known)

    def find(self, name: str) -> type[T]:
        """The class of a name of the package's own, or of a `module:Class`.

        Raises:
            UserError: there is none, or it is not trusted (see `import_name`).
        """
        if name in self._known:
            module, _, attribute = self._known[name].partition(":")
            return cast(type[T], getattr(importlib.import_module(module), attribute))
        if ":" not in name:
            raise UserError(
                f"{self.option} is {name!r}; it must be one of {', '.join(self._known)}, or a "
                "class of your own as module:Class."
            )
        found = import_name(name, self.option)
        missing = [member for member in self._members if not hasattr(found, member)]
        if not isinstance(found, type) or missing:
            what = f"has no {missing[0]!r}" if isinstance(found, type) else "is no class"
            raise UserError(
                f"{self.option} is {name!r}, which {what}; docs/extending.md shows what one needs."
            )
        return cast(type[T], found)
