"""Sets of options by name: recipes, presets, protocols; and the words of earlier versions."""

import copy
from typing import Any, Literal

from stratdiff.errors import UserError

# Options by recipe and by preset; those of parts that a run does not have are left out.
RECIPES: dict[str, dict[str, Any]] = {
    "locomotion": {},
    "antmaze": {
        "guidance_scale": 2.0,
        "eval_episodes": 100,
        "recipe": "antmaze",
        "normalize_states": False,
        "behaviour": {"support_actions": 32},
    },
}
PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "offline_steps": 30_000,
        "behaviour_steps": 4000,
        "energy_steps": 1000,
        "online_steps": 5000,
        "eval_episodes": 20,
        "offline_eval_interval": 5000,
        "eval_interval": 1000,
        "log_interval": 250,
        "behaviour": {
            "widths": (128, 64, 32),
            "learning_rate": 3e-4,
            "batch_size": 256,
            "support_actions": 8,
            "solver_steps": 8,
        },
        "energy": {"hidden": (64, 64, 64)},
    },
    "paper": {"iql": {"online_expectile": 0.99, "online_target": "max-q"}},
}
Preset = Literal["demo", "paper"]
# Baselines as sets of options (docs/method.md, section 6).
PROTOCOLS: dict[str, dict[str, Any]] = {
    "stratdiff": {},
    "rlpd": {
        "base": "sac",
        "score": "none",
        "offline_steps": 0,
        "offline_fraction": 0.5,
        "sac": {"critics": 10, "layer_norm": True, "entropy_scale": 0.5},
    },
    "wsrl": {
        "base": "calql",
        "score": "origin",
        "rho": 0.0,
        "offline_fraction": 0.0,
        "frozen_steps": 5000,
        "online_warmup": 1,
        "utd": 4,
        "calql": {"critics": 10, "layer_norm": True},
    },
}
Protocol = Literal["stratdiff", "rlpd", "wsrl"]


def override(options: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put the (nested) changes into `options`; its tables are never those of `changes`."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(options.get(key), dict):
            override(options[key], value)
        else:
            options[key] = copy.deepcopy(value)


# The whole table of IQL's options in a config of version 0.1, and what IQL did then.
_EARLIER_OPTIONS = {
    *("learning_rate", "actor_hidden", "critic_hidden", "discount", "polyak", "expectile"),
    *("online_expectile", "inverse_temperature", "max_target_actions"),
}
_EARLIER_IQL = {"actor_schedule": "cosine", "final_gain": 1e-2, "online_target": "max-q"}


def translated(options: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(options in today's words, what was translated: '' for nothing).

    Until version 0.1, `method` and `alignment` said what `score` says, β stood with the energy
    model's options, what is now the solver `multistep` was the time grid `lambda`, and IQL had one
    loss for online-like rows.
    """
    out, said = dict(options), []
    if {"method", "alignment"} & options.keys():
        method, alignment = out.pop("method", "stratdiff"), out.pop("alignment", "guided")
        scores = {"base": "none", "random": "random", "stratdiff": alignment}
        if not isinstance(method, str) or method not in scores:
            raise UserError(f"method is {method!r}; write score = none, random, guided or support.")
        if "score" in options:
            raise UserError(
                f"score {options['score']!r} is given, and method or alignment of an earlier "
                "version too; leave those out."
            )
        out |= {"score": scores[method], "split": "ratio"}
        said.append(f"method {method!r} and alignment {alignment!r} as score {out['score']!r}")
    energy = out.get("energy")
    if isinstance(energy, dict) and "inverse_temperature" in energy:
        out["energy"] = {k: v for k, v in energy.items() if k != "inverse_temperature"}
        out["inverse_temperature"] = energy["inverse_temperature"]
        said.append("energy.inverse_temperature as inverse_temperature")
    behaviour = out.get("behaviour")
    if isinstance(behaviour, dict) and behaviour.get("time_grid") == "lambda":
        kept = {k: v for k, v in behaviour.items() if k != "time_grid"}
        out["behaviour"] = {"solver": "multistep"} | kept
        said.append("behaviour.time_grid 'lambda' as behaviour.solver 'multistep'")
    iql = out.get("iql")
    if isinstance(iql, dict) and iql.keys() == _EARLIER_OPTIONS:
        out["iql"] = _EARLIER_IQL | iql
        said.append(f"iql with {', '.join(f'{k} {v!r}' for k, v in _EARLIER_IQL.items())}")
    note = f"options of an earlier version are read: {', '.join(said)}" if said else ""
    return out, note
