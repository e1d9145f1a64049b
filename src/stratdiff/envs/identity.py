"""Which environment exactly: an id, or Gymnasium's EnvSpec as JSON where an id is not enough.

Arguments, time limit and wrappers of an environment travel in such a text. It may come from a file,
so nothing that it names is imported unless the user has trusted it (`registry`): the id is looked
up with Gymnasium, and entry points are not read at all.
"""

import importlib
import json
import reprlib
import warnings
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from stratdiff import registry
from stratdiff.errors import BadEnvironment, UserError, last_line, nearest

# Stands for an id where the environment is an object of the calling program, or its own loop.
OUTSIDE = "(of the calling program)"
# Wrappers that only watch: data do not depend on them.
_WATCHING = {"RecordVideo", "RecordEpisodeStatistics", "HumanRendering", "RenderCollection"}
# Wrappers whose arguments are not all: what they have seen decides what they give.
_LEARNING = {"NormalizeObservation", "NormalizeReward"}
# HDF5 holds attributes of less than 64 KiB.
_LONGEST = 60_000


class Identity(NamedTuple):
    """What an environment is made from."""

    env_id: str
    """Gymnasium's id, `module:id`, or `module:function`."""
    kwargs: dict[str, Any]
    max_episode_steps: int | None
    """None: as it is registered; -1: none."""
    wrappers: list[WrapperSpec]
    """In Gymnasium's order, from the inside; the first may be the registered environment's own."""


def name_of(env_id: str) -> str:
    """An id without the module that registers it."""
    return env_id.rpartition(":")[2]


def json_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object of an option or attribute.

    Raises:
        UserError: it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{what} is {reprlib.repr(text)}; it must be a JSON object.")
    return found


def applies(spec: str, env_id: str) -> bool:
    """Whether the text of an EnvSpec is of the environment `env_id`.

    Raises:
        UserError: the text is no JSON object.
    """
    return bool(spec) and name_of(str(json_object(spec, "env_spec").get("id"))) == name_of(env_id)


def exact(env_id: str, spec: str = "", kwargs: str = "", max_episode_steps: int = 0) -> str:
    """The text of an environment: its id, with what an EnvSpec and then the options say of it.

    `spec` and `kwargs` are JSON objects or empty. An EnvSpec of another environment is left out.

    Raises:
        UserError: a text is no JSON object.
    """
    table: dict[str, Any] = {}
    if applies(spec, env_id):
        found = json_object(spec, "env_spec")
        keys = ("kwargs", "max_episode_steps", "additional_wrappers")
        table = {key: found[key] for key in keys if key in found}
    if kwargs:
        table["kwargs"] = json_object(kwargs, "--env-kwargs")
    if max_episode_steps:
        table["max_episode_steps"] = max_episode_steps
    return json.dumps({"id": env_id} | table) if table else env_id


def read(text: str) -> Identity:
    """What `exact` or an EnvSpec says.

    Raises:
        UserError: it is no EnvSpec.
    """
    if not text.startswith("{"):
        return Identity(text, {}, None, [])
    table = json_object(text, "env_spec")
    env_id: Any = table.get("id")
    kwargs = table.get("kwargs", {})
    limit, listed = table.get("max_episode_steps", 0), table.get("additional_wrappers", [])
    try:
        wrappers = [WrapperSpec(w["name"], w["entry_point"], w["kwargs"]) for w in listed]
        whole = all(isinstance(part, str) for w in wrappers for part in (w.name, w.entry_point))
    except (TypeError, LookupError):
        whole = False
    whole = whole and isinstance(env_id, str) and isinstance(kwargs, dict)
    if not (whole and (limit is None or type(limit) is int)):
        raise UserError(
            f"env_spec is {reprlib.repr(text)}, which is no EnvSpec of Gymnasium in JSON; record "
            "the data again, or give --env."
        )
    kwargs = {key: value for key, value in kwargs.items() if key != "render_mode"}
    return Identity(env_id, kwargs, -1 if limit is None else limit or None, wrappers)


def make(text: str, render_mode: str | None = None) -> gymnasium.Env:
    """The environment of an id, or of a text from `exact`; `render_mode` None: it does not draw.

    Raises:
        UserError: it is unknown or cannot be made, or only a file has named its code.
    """
    env_id, kwargs, limit, wrappers = read(text)
    if render_mode:
        kwargs = kwargs | {"render_mode": render_mode}
    registry.check_trusted(env_id, "--env")
    module, _, name = env_id.rpartition(":")
    try:
        own = getattr(importlib.import_module(module), name, None) if module else None
        if callable(own) and name not in gymnasium.registry:
            made = own(**kwargs)
            if not isinstance(made, gymnasium.Env):
                raise TypeError(f"it gave {reprlib.repr(made)}, which is no gymnasium.Env")
            return gymnasium.wrappers.TimeLimit(made, limit) if limit and limit > 0 else made
        with warnings.catch_warnings():
            # The -v4 environments are old on purpose: they are D4RL's physics. JSON knows one kind
            # of real numbers, so wrappers are given those.
            warnings.filterwarnings("ignore", ".*(is out of date|precision lowered|render_mode).*")
            made = gymnasium.make(env_id, max_episode_steps=limit, **kwargs)
            registered = made.spec.additional_wrappers if made.spec else ()
            for wrapper in wrappers[len(registered) :]:
                if wrapper.name not in _WATCHING:
                    made = _wrapper(wrapper, env_id)(made, **(wrapper.kwargs or {}))
        return made
    except UserError:
        raise
    except gymnasium.error.UnregisteredEnv as error:
        raise UserError(
            f"environment {env_id!r} is not registered with Gymnasium; did you mean "
            f"{nearest(env_id, gymnasium.registry)}? Your own: --env module:Name-v0, where the "
            "module registers it, or --env module:function, which makes it."
        ) from error
    except (Exception, SystemExit) as error:
        fact = f"environment {env_id!r} could not be made ({last_line(error)})"
        raise BadEnvironment(fact, "mend it, or check its id and --env-kwargs") from error


def _wrapper(wrapper: WrapperSpec, env_id: str) -> type[gymnasium.Wrapper]:
    """The class: Gymnasium's own, or code of a module that the user has named."""
    where = f"environment {env_id!r} is recorded with the wrapper {wrapper.entry_point!r}"
    module = wrapper.entry_point.partition(":")[0]
    kind = vars(gymnasium.wrappers).get(wrapper.name)
    if getattr(kind, "__module__", None) != module:
        own = module and module == env_id.rpartition(":")[0]
        if not own and not registry.is_trusted(wrapper.entry_point):
            raise UserError(
                f"{where}, which is code that only a file names; to let it be imported, pass "
                "--trust-modules."
            )
        registry.trust(wrapper.entry_point)
        kind = registry.import_name(wrapper.entry_point, "the wrapper")
    learns = wrapper.name in _LEARNING
    if (
        learns
        or wrapper.kwargs is None
        or not (isinstance(kind, type) and issubclass(kind, gymnasium.Wrapper))
    ):
        raise UserError(f"{where}, which cannot be restored; {_ADVICE}.")
    return kind


_ADVICE = (
    "register the environment together with what is around it, and give the id of that as env_id "
    "to the Recorder and as --env"
)


def write(env: gymnasium.Env, env_id: str) -> str:
    """The EnvSpec of an environment that is recorded, as JSON; "" where `env_id` makes another.

    Raises:
        UserError: an argument or a wrapper could not be restored.
    """
    spec = env.spec
    if spec is None or name_of(spec.id) != name_of(env_id):
        return ""
    where, registered = f"environment {env_id!r} has", gymnasium.registry.get(spec.id)
    kwargs = {}
    for key, value in spec.kwargs.items():
        try:
            kwargs[key] = _plain(value)
        except TypeError as error:
            # What it is registered with comes back with its id.
            if registered and repr(registered.kwargs.get(key)) == repr(value):
                continue
            said = f"{where} the argument {key}={reprlib.repr(value)}, which JSON cannot hold"
            raise UserError(f"{said}; {_ADVICE}.") from error
    wrappers, prior = [], _prior(env)
    for i, wrapper in enumerate(spec.additional_wrappers):
        name, entry, arguments = wrapper.name, wrapper.entry_point, wrapper.kwargs
        try:
            if arguments is None or name in _LEARNING:
                raise TypeError
            wrappers.append(WrapperSpec(name, entry, _plain(arguments)))
        except TypeError as error:
            if i >= prior and name not in _WATCHING:
                raise UserError(
                    f"{where} the wrapper {name}, which could not be restored from the file; put "
                    f"it around the Recorder instead of under it, or {_ADVICE}."
                ) from error
            wrappers.append(WrapperSpec(name, entry, None))
    creator = spec.entry_point if isinstance(spec.entry_point, str) else None
    found = EnvSpec(spec.id, creator, max_episode_steps=spec.max_episode_steps, kwargs=kwargs)
    found.additional_wrappers = tuple(wrappers)
    text = found.to_json()
    if len(text) > _LONGEST:
        raise UserError(f"{where} arguments of {len(text):,} characters in JSON; {_ADVICE}.")
    return text


def _prior(env: gymnasium.Env) -> int:
    """How many wrappers come with the id: those below what `gymnasium.make` adds."""
    inner = None
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(
            env, gymnasium.wrappers.PassiveEnvChecker | gymnasium.wrappers.OrderEnforcing
        ):
            inner = env.env.spec
        env = env.env
    return len(inner.additional_wrappers) if inner else 0


def _plain(value: Any) -> Any:
    """The value as JSON gives it back.

    Raises:
        TypeError: JSON cannot hold it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(x) for key, x in value.items()}
    raise TypeError
