"""Where a run's environments come from: a name, a factory, one object, or nowhere."""

from collections.abc import Callable
from typing import Any

from stratdiff import tasks
from stratdiff.config import OUTSIDE
from stratdiff.data.dataset import Dataset
from stratdiff.data.sources import scored
from stratdiff.errors import UserError
from stratdiff.tasks import Task

Given = Any  # a Gymnasium environment, a function that makes one, or None


class Environments:
    """Makes the environments of one task, flat and with actions in [-1, 1]."""

    def __init__(self, task: Task, make: Callable[[], Any] | None, single: bool = False) -> None:
        """`make` None: the caller has the environment; `single`: there is one instance only."""
        self.task, self.single = task, single
        self._make = make

    @property
    def known(self) -> bool:
        """Whether any can be made."""
        return self._make is not None

    def make(self, n: int) -> list[Any]:
        """`n` environments.

        Raises:
            UserError: fewer can be made.
        """
        assert self._make is not None
        if self.single and n > 1:
            raise UserError(
                f"{n} environments are needed, but the program gave one environment object; give "
                "a function that makes environments instead, or use one seed."
            )
        return [self._make() for _ in range(n)]


def find_environments(env_id: str, name: str, dataset: Dataset, given: Given) -> Environments:
    """The environments of a run.

    `env_id` is the config's, or `OUTSIDE`; `name` the data set's name there; `given` what the
    program gave.

    Raises:
        UserError: no environment is known, or it cannot be made.
    """
    if given is not None:
        if callable(given) and not hasattr(given, "step"):
            first = [tasks.wrap_env(given())]
            task = tasks.task_of_env(first[0])

            def make() -> Any:
                return first.pop() if first else tasks.wrap_env(given())

            return Environments(task, make)
        env = tasks.wrap_env(given)
        return Environments(tasks.task_of_env(env), lambda: env, single=True)
    if env_id == OUTSIDE:
        return Environments(tasks.task_of(dataset), None)
    if not env_id:
        raise UserError(
            f"data set {dataset.name!r} does not name its environment; give it with --env."
        )
    return Environments(scored(tasks.find_task(env_id), name), lambda: tasks.make_env(env_id))
