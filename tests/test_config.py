"""Options: METHOD 7's values, JSON there and back, refusals that name the option."""

import dataclasses
import json

import pytest

from stratdiff.config import Config, make_config, read_config
from stratdiff.errors import UserError

# METHOD 7: the table and the text above it.
METHOD_7 = {
    "locomotion": {
        "calql.actor_learning_rate": 1e-4,
        "calql.critic_learning_rate": 3e-4,
        "calql.critic_hidden": (256, 256),
        "calql.actor_hidden": (256, 256),
        "iql.learning_rate": 3e-4,
        "iql.actor_hidden": (256, 256),
        "iql.critic_hidden": (256, 256),
        "iql.expectile": 0.7,
        "iql.inverse_temperature": 3.0,
        "behaviour.support_actions": 16,
        "guidance_scale": 3.0,
        "eval_episodes": 10,
        # METHOD 6: α = 10 fixed, one target action.
        "calql.alpha": 10.0,
        "calql.lagrange": False,
        "calql.max_target_backup": False,
        "recipe": "locomotion",
    },
    "antmaze": {
        "calql.actor_learning_rate": 1e-4,
        "calql.critic_learning_rate": 3e-4,
        "calql.critic_hidden": (256, 256, 256, 256),
        "calql.actor_hidden": (256, 256),
        "iql.learning_rate": 3e-4,
        "iql.actor_hidden": (256, 256),
        "iql.critic_hidden": (256, 256),
        "iql.expectile": 0.9,
        "iql.inverse_temperature": 10.0,
        "behaviour.support_actions": 32,
        "guidance_scale": 2.0,
        "eval_episodes": 100,
        # METHOD 6: Lagrange with threshold 0.8 times 5, the max over 10 samples.
        "calql.alpha": 5.0,
        "calql.lagrange": True,
        "calql.max_target_backup": True,
        "recipe": "antmaze",
    },
}
EVERYWHERE = {
    "rho": 0.5,
    "utd": 1,
    "batch_size": 256,
    "offline_fraction": 0.5,
    "online_warmup": 1000,
    "offline_steps": 1_000_000,
    "online_steps": 200_000,
    "eval_interval": 5000,
    "alignment": "guided",
    "method": "stratdiff",
    "calql.lagrange_threshold": 0.8,
    "calql.sampled_actions": 10,
    "calql.calibrate": True,
    "calql.discount": 0.99,
    "calql.polyak": 0.005,
    "iql.discount": 0.99,
    "iql.polyak": 0.005,
    "iql.online_expectile": 0.99,
    "iql.max_target_actions": 10,
    "behaviour.widths": (512, 256, 128),
    "behaviour.ema": 0.999,
    "behaviour.solver_steps": 15,
    "energy.hidden": (256, 256, 256, 256),
    "energy.inverse_temperature": 3.0,
}


def get(config, option):
    for part in option.split("."):
        config = getattr(config, part)
    return config


def nested(option, value):
    """{"a": {"b": value}} of "a.b"."""
    for part in reversed(option.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("recipe", METHOD_7)
def test_paper_preset_is_method_7(recipe):
    config = make_config("paper", recipe)
    for option, value in (EVERYWHERE | METHOD_7[recipe]).items():
        assert get(config, option) == value, option


def test_defaults_are_the_paper_on_locomotion():
    assert make_config() == make_config("paper", "locomotion") == Config()


@pytest.mark.parametrize("recipe", METHOD_7)
def test_demo_preset_shortens_and_keeps_the_method(recipe):
    demo, paper = make_config("demo", recipe), make_config("paper", recipe)
    for name in ("offline_steps", "behaviour_steps", "energy_steps", "online_steps"):
        assert 0 < getattr(demo, name) <= getattr(paper, name) / 30
    assert demo.behaviour.widths == (128, 64, 32)
    for part in ("iql", "calql", "sac"):
        assert getattr(demo, part) == getattr(paper, part)
    for name in ("rho", "guidance_scale", "recipe", "batch_size", "method", "alignment", "utd"):
        assert getattr(demo, name) == getattr(paper, name)


def test_options_go_over_recipe_and_preset():
    config = make_config(
        "demo", "antmaze", rho=0.3, online_steps=77, iql={"expectile": 0.8}, seeds=(4, 2)
    )
    assert (config.rho, config.online_steps, config.seeds) == (0.3, 77, (4, 2))
    assert config.iql.expectile == 0.8
    # The rest of the part is still the recipe's.
    assert config.iql.inverse_temperature == 10.0


def test_the_chosen_base_has_the_options():
    assert make_config(base="calql").agent == Config().calql
    assert make_config(base="iql").agent == Config().iql
    assert make_config(base="sac", method="base").agent == Config().sac


@pytest.mark.parametrize(
    ("options", "behaviour", "energy", "support"),
    [
        ({}, True, True, True),
        ({"guidance_scale": 0.0}, True, False, False),
        ({"alignment": "support"}, True, False, True),
        ({"alignment": "support", "guidance_scale": 0.0}, True, False, True),
        ({"method": "random"}, False, False, False),
        ({"method": "base"}, False, False, False),
    ],
)
def test_which_models_a_method_needs(options, behaviour, energy, support):
    config = make_config(**options)
    assert config.needs_behaviour == behaviour
    assert config.needs_energy == energy
    assert config.needs_support == support


# JSON


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        make_config("demo", "antmaze", base="calql", seeds=(3, 1, 2), rho=0.7),
        make_config(base="sac", method="base", sac={"critics": 10, "layer_norm": True}),
        make_config(env="Hopper-v4", iql={"actor_hidden": (8,)}, save_policies=True),
    ],
)
def test_round_trip(config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert read_config(path) == config
    assert hash(read_config(path)) == hash(config)
    assert json.loads(config.to_json()).keys() == {f.name for f in dataclasses.fields(Config)}


def test_lists_and_whole_numbers_become_tuples_and_floats():
    config = make_config(seeds=[1, 2], rho=1, behaviour={"widths": [8, 4]})
    assert config.seeds == (1, 2)
    assert config.behaviour.widths == (8, 4)
    assert isinstance(config.rho, float)


# Refusals

OUT_OF_RANGE = [
    ("rho", -0.1),
    ("rho", 1.01),
    ("rho", float("nan")),
    ("guidance_scale", -1.0),
    ("reward_scale", -2.0),
    ("seeds", ()),
    ("seeds", (1, 1)),
    ("seeds", (-1,)),
    ("seeds", (2**31,)),
    ("offline_fraction", 1.5),
    ("offline_steps", -1),
    ("behaviour_steps", -1),
    ("energy_steps", -1),
    ("online_steps", -5),
    ("utd", 0),
    ("log_interval", 0),
    ("eval_interval", 0),
    ("offline_eval_interval", 0),
    ("batch_size", 1),
    ("online_warmup", 0),
    ("eval_episodes", 0),
    ("checkpoint_seconds", -1.0),
    ("behaviour.support_actions", 1),
    ("behaviour.solver_steps", 0),
    ("behaviour.widths", (8,)),
    ("behaviour.ema", 1.0),
    ("behaviour.batch_size", 0),
    ("energy.batch_size", 0),
    ("energy.inverse_temperature", 0.0),
    ("iql.discount", 1.0),
    ("calql.polyak", 0.0),
    ("sac.discount", 0.0),
    ("iql.expectile", 1.0),
    ("iql.online_expectile", 0.0),
    ("iql.max_target_actions", 0),
    ("calql.sampled_actions", 0),
    ("sac.target_critics", 3),
]
OUT_OF_RANGE += [
    ("guidance_scale", float("inf")),
    ("iql.learning_rate", -1.0),
    ("iql.inverse_temperature", -3.0),
    ("calql.critic_learning_rate", 0.0),
    ("calql.alpha", -1.0),
    ("iql.critic_hidden", (0,)),
    ("calql.actor_hidden", (-3,)),
    ("behaviour.widths", (8, -8)),
    ("energy.hidden", (0,)),
]


@pytest.mark.parametrize(
    ("option", "value"),
    OUT_OF_RANGE,
)
def test_out_of_range_is_refused_by_the_flags_name(option, value):
    with pytest.raises(UserError) as caught:
        make_config(**nested(option, value))
    assert "--" + option.replace("_", "-") in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"), [("rho", 0.0), ("rho", 1.0), ("guidance_scale", 0.0), ("utd", 10)]
)
def test_ends_of_the_range_are_accepted(option, value):
    assert getattr(make_config(**{option: value}), option) == value


def test_sac_has_nothing_to_stratify():
    with pytest.raises(UserError) as caught:
        make_config(base="sac")
    for word in ("--method", "--base sac", "--method base"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("utd", "two"),
        ("utd", 1.5),
        ("dataset", 5),
        ("base", "ddpg"),
        ("method", None),
        ("iql", 5),
        ("save_policies", "yes"),
        ("calql.sampled_actions", "ten"),
        ("seeds", (0.5,)),
        ("rho", "high"),
        ("rho", None),
        ("iql.expectile", "x"),
        ("seeds", 3),
        ("iql.actor_hidden", 256),
    ],
)
def test_wrong_type_is_refused(option, value, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(nested(option, value)))
    for read in (lambda: make_config(**nested(option, value)), lambda: read_config(path)):
        with pytest.raises(UserError) as caught:
            read()
        assert option in str(caught.value)


@pytest.mark.parametrize("option", ["rhoo", "iql.tau", "behaviour.width"])
def test_unknown_option_is_refused(option, tmp_path):
    with pytest.raises(UserError) as caught:
        make_config(**nested(option, 1.0))
    # Its name, and what there is instead.
    assert option.split(".")[-1] in str(caught.value)
    known = {"rhoo": "rho", "iql.tau": "expectile", "behaviour.width": "widths"}[option]
    assert known in str(caught.value)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(nested(option, 1.0)))
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert option.split(".")[-1] in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["preset", "recipe"])
def test_unknown_preset_or_recipe(name):
    with pytest.raises(UserError) as caught:
        make_config(**{name: "kitchen"})
    for word in (f"--{name}", "'kitchen'", {"preset": "demo", "recipe": "antmaze"}[name]):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("{", "JSON"),
        ("", "JSON"),
        ("[1, 2]", "one JSON object"),
        ('{"utd": "x"}', "utd"),
    ],
)
def test_bad_file(text, words, tmp_path):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_file_with_a_value_out_of_range(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"rho": 2}')
    with pytest.raises(UserError, match="rho is 2"):
        read_config(path)
