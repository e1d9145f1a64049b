"""Finished phases on the disk, and that a phase reads the options that it says and no others.

The latter is held by tracing: the program of a phase's update does not change with an option that
it does not read, though it is given nothing of what other phases train.
"""

import copy
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from stratdiff.agents import AGENTS
from stratdiff.config import config_of, flat_options, table_to_config
from stratdiff.data.dataset import from_arrays
from stratdiff.data.device import to_device
from stratdiff.errors import RunStopped
from stratdiff.phases import Phase, StorePhase
from stratdiff.scores import SCORES
from stratdiff.splits import Ratio
from stratdiff.training.shared import SharedPhases, load_arrays, options_read, save_arrays

OBS, ACT, ROWS = 3, 2, 40
OPTIONS = {
    "env": "somewhere",
    "recipe": "locomotion",
    "reward_scale": 2.0,
    "offline_steps": 70,
    "behaviour_steps": 60,
    "energy_steps": 50,
    "batch_size": 8,
    "iql": {"actor_hidden": [4], "critic_hidden": [5]},
    # With a multiplier, or its threshold would play no part.
    "calql": {
        "actor_hidden": [4],
        "critic_hidden": [5],
        "sampled_actions": 3,
        "lagrange": True,
        "critics": 3,
    },
    "sac": {"actor_hidden": [4], "critic_hidden": [5], "critics": 3, "target_critics": 2},
    "rebrac": {"actor_hidden": [4], "critic_hidden": [5]},
    "behaviour": {"widths": [6, 4], "support_actions": 3, "solver_steps": 3, "batch_size": 7},
    "energy": {"hidden": [4], "batch_size": 6},
}
FAST = {("iql", "guided"), ("sac", "none")}
KINDS = [
    pytest.param(base, score, marks=[] if (base, score) in FAST else pytest.mark.slow)
    for base in ("iql", "calql", "sac", "rebrac")
    for score in (SCORES.names() if base != "sac" else ("none",))
]
# What no phase can do without, and what is kept of it beside its arrays.
ALWAYS = {"env", "recipe", "seeds", "log_interval"}
NOT_IN_THE_PROGRAM = {
    "offline_eval_interval": "when it is evaluated, which stands in its log points",
    "eval_episodes": "how it is evaluated, which stands in its log points",
}


class OtherSplit(Ratio):
    """Another rule with the options of the paper's."""

    name = "other"


OTHERS = {
    "dataset": {"": "other.hdf5"},
    "env": {"": "elsewhere"},
    "base": {"iql": "calql", "calql": "iql", "sac": "iql", "rebrac": "iql"},
    "score": {
        "none": "random",
        "random": "none",
        "guided": "support",
        "support": "guided",
        "origin": "none",
        "likelihood": "support",
    },
    "split": {"": f"{__name__}:OtherSplit"},
    "recipe": {"locomotion": "antmaze"},
    "iql.actor_schedule": {"constant": "cosine"},
    "iql.online_target": {"": "value"},
    "iql.online_actor": {"": "max-q"},
    "iql.online_expectile": {"": 0.9},
    "behaviour.solver": {"multistep": "singlestep"},
    "guidance": {"scaled": "exact"},
    "behaviour.precision": {"auto": "float32"},
    "track": {"": [f"{__name__}:Sink"]},
    "seeds": {"": [5]},
}


def other_value(option, value):
    """A value that the option may have instead."""
    if option in OTHERS:
        others = OTHERS[option]
        return others[""] if "" in others else others[value]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return [x + 1 for x in value] if isinstance(value, tuple | list) else value / 2


def changed(config, *options):
    """The config with other values of these options."""
    # With small networks for parts that the change may choose; others leave them out.
    table, flat = copy.deepcopy({**OPTIONS, **config.to_table()}), flat_options(config)
    for option in options:
        *tables, name = option.split(".")
        place = functools.reduce(lambda t, key: t[key], tables, table)
        place[name] = other_value(option, flat[option])
        assert place[name] != flat[option]
    return table_to_config(table, "a test")


@functools.cache
def configured(base, score):
    return config_of({**OPTIONS, "base": base, "score": score})


class Traced:
    """What is known of the phases of a config without training any."""

    def __init__(self, config):
        self.algorithm = config.algorithm(OBS, ACT, config.reward_scale)
        self.phases = {phase.name: phase for phase in self.algorithm.phases()}
        with jax.disable_jit():  # or every optimiser's first state would be compiled
            self.state = self.algorithm.init(jax.random.key(0))
        units = self.algorithm.agent.reward_units(config.recipe, config.reward_scale)
        discount, sparse = self.algorithm.agent.discount, config.recipe == "antmaze"
        self.data = to_device(dataset(), units.scale, units.shift, discount, sparse)

    def before(self, name):
        """A phase and those whose results it reads."""
        after = self.phases[name].after
        return {name}.union(*(self.before(other) for other in after))

    def part(self, name):
        """The part of the state that a phase trains, or what it stores with one row."""
        path = self.phases[name].part.split(".")
        return functools.reduce(getattr, path, self.state)

    def given(self, name):
        """(state, data, stored) for a phase: shapes, and nothing of what it does not read."""
        before = self.before(name)
        trained = {n for n in before if isinstance(self.phases[n], Phase)}
        agent = self.state.agent if "base" in trained else nothing(self.state.agent)
        score = self.state.score
        if name == "base":
            score = nothing(score)
        elif "energy" not in trained and hasattr(score, "energy"):
            score = type(score)(score.behaviour, nothing(score.energy))
        data = self.data
        if "base" not in trained:
            unread = {n: None for n in ("reward", "terminal", "mc_return")}
            data = object.__new__(type(data))
            for field, value in {**vars(self.data), **unread}.items():
                object.__setattr__(data, field, value)
        stored = None
        if len(trained) < len(before):
            one = jax.eval_shape(self.store, self.state.score, *self.rows())
            stored = jax.tree.map(lambda x: jnp.zeros((ROWS, *x.shape[1:]), x.dtype), one)
        state = type(self.state)(agent, score, ())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, data, stored))

    def rows(self):
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 5))
        return jax.ShapeDtypeStruct((5, OBS), jnp.float32), keys

    def store(self, state, obs, keys):
        return self.algorithm.score.store(state, obs, keys)

    def program(self, name, given):
        """The phase's program on arrays of these shapes, as text, and its constants."""
        state, data, stored = given
        phase = self.phases[name]
        if isinstance(phase, StorePhase):
            traced = jax.make_jaxpr(self.store)(state.score, *self.rows())
        else:
            key = jax.eval_shape(lambda: jax.random.key(0))
            traced = jax.make_jaxpr(phase.update)(state, data, stored, key)
        text = re.sub(r" at 0x[0-9a-f]+", "", str(traced.jaxpr))
        return text, [np.asarray(c).tobytes() for c in traced.consts]

    def start(self, name):
        """(first weights, number of updates) of a phase."""
        phase = self.phases[name]
        if isinstance(phase, StorePhase):
            return ()
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(self.part(name))], phase.steps

    def rewards(self):
        return np.asarray(self.data.reward).tobytes(), np.asarray(self.data.mc_return).tobytes()


def nothing(tree):
    """The same modules without any array: whoever computes with one fails."""
    return jax.tree.map(lambda _: None, tree)


@functools.cache
def dataset():
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(ROWS, OBS)),
        "actions": rng.uniform(-1, 1, (ROWS, ACT)),
        "rewards": rng.uniform(size=ROWS),
        "terminals": np.zeros(ROWS),
        "timeouts": np.arange(ROWS) % 10 == 9,
    }
    return from_arrays("noise", {k: np.asarray(v, np.float32) for k, v in arrays.items()})


@functools.cache
def traced(base, score):
    return Traced(configured(base, score))


@pytest.mark.parametrize(("base", "score"), KINDS)
def test_a_phase_does_not_change_with_options_that_it_does_not_read(base, score):
    config, here = configured(base, score), traced(base, score)
    phases = here.algorithm.phases()
    for phase in phases:
        read = options_read(phase, phases, config).keys()
        unread = set(flat_options(config)) - read
        # The base has options that only fine-tuning reads, and so has every score.
        assert {"online_steps", "utd", "offline_fraction"} <= unread
        given = here.given(phase.name)
        program = here.program(phase.name, given)
        together = [[o for o in sorted(unread) if o not in ("base", "score")]]
        apart = [[o] for o in ("base", "score") if o in unread and base != "sac"]
        if phase.name == "base":  # they stand in its program without effect: see below
            together[0] = [o for o in together[0] if o not in online_options(base)]
        for options in together + apart:
            there = Traced(changed(config, *options))
            if phase.name in there.phases:
                assert there.program(phase.name, given) == program, (phase.name, options)
                assert there.start(phase.name) == here.start(phase.name), (phase.name, options)
    assert options_read(phases[0], phases, config).keys() >= ALWAYS


@pytest.mark.parametrize(
    ("base", "score"),
    [
        pytest.param("iql", "guided", marks=pytest.mark.slow),
        pytest.param("calql", "support", marks=pytest.mark.slow),
        ("sac", "none"),
        ("rebrac", "origin"),
    ],
)
def test_a_phase_changes_with_every_option_that_it_reads(base, score):
    config, here = configured(base, score), traced(base, score)
    flat = flat_options(config)
    for name, phase in here.phases.items():
        own = {o for o in flat for r in phase.reads if o == r or o.startswith(f"{r}.")}
        assert len(own) >= len(phase.reads)  # every one is an option, or a table of some
        if name == "base":
            own.add("recipe")  # it decides the rewards
        program = here.program(name, here.given(name))
        if base == "rebrac":
            own.discard("reward_scale")  # it trains in the data's own rewards
        for option in sorted(own - NOT_IN_THE_PROGRAM.keys()):
            there = Traced(changed(config, option))
            assert (
                there.start(name) != here.start(name)
                or (name == "base" and there.rewards() != here.rewards())
                or there.program(name, there.given(name)) != program
            ), (name, option)


def online_options(base):
    """The base's options that only fine-tuning reads, by their dotted names."""
    return [f"{base}.{name}" for name in AGENTS.find(base).online_options]


@pytest.mark.parametrize("base", [b for b in AGENTS.names() if AGENTS.find(b).online_options])
def test_options_of_fine_tuning_alone_do_not_change_the_bits_of_pre_training(base):
    def updated(*options):
        there = Traced(changed(configured(base, "none"), *options))
        phase = there.phases["base"]
        assert {*online_options(base)}.isdisjoint(phase.reads)
        new, _ = jax.jit(phase.update)(there.state, there.data, None, jax.random.key(3))
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(new)]

    assert updated(*online_options(base)) == updated()


# The folder


def test_what_a_phase_reads_decides_its_key(tiny, tmp_path):
    def keys(**options):
        config = tiny(**options)
        phases = config.algorithm(2, 2, 1.0).phases()
        shared = SharedPhases(tmp_path, config, phases, "data", {"jax": "1"})
        return {phase.name: shared.folder(phase).name for phase in phases}

    plain = keys()
    assert [*plain] == ["base", "behaviour", "support", "energy"]
    online = {"rho": 0.3, "guidance_scale": 1.0, "utd": 4, "online_steps": 9}
    assert keys(**online) == plain
    assert keys(iql={**runs.TINY["iql"], "online_expectile": 0.9}) == plain
    assert keys(score="random") == {"base": plain["base"]}
    for options, moved in (
        ({"offline_steps": 61}, {"base", "energy"}),
        ({"iql": {"expectile": 0.9}}, {"base", "energy"}),
        ({"base": "calql"}, {"base", "energy"}),
        ({"behaviour_steps": 61}, {"behaviour", "support", "energy"}),
        ({"behaviour": {"widths": [8, 8]}}, {"behaviour", "support", "energy"}),
        ({"behaviour": {"support_actions": 5}}, {"support", "energy"}),
        ({"inverse_temperature": 1.0}, {"energy"}),
        ({"behaviour": {"solver": "singlestep"}}, {"support", "energy"}),
        ({"guidance": "exact"}, {"energy"}),
        ({"seeds": (1,)}, set(plain)),
    ):
        found = keys(**merged(options))
        assert {p for p in plain if found[p] != plain[p]} == moved, options


def merged(options):
    return {
        key: runs.TINY[key] | value if isinstance(value, dict) else value
        for key, value in options.items()
    }


def shared_phases(folder, fingerprint="data", versions="1"):
    config = configured("iql", "none")
    phases = traced("iql", "none").algorithm.phases()
    return SharedPhases(folder, config, phases, fingerprint, {"jax": versions}), phases[0]


PART = {"w": jnp.arange(6.0).reshape(2, 3), "more": (jnp.asarray([7], jnp.int32),)}
TEMPLATE = jax.tree.map(jnp.zeros_like, PART)
ABOUT = "data", (0, 1)
RECORDS = [{"step": 10, "time": 0.5, "critic_loss": [1.0, 2.0]}]


def test_a_finished_phase_is_found_again(tmp_path):
    shared, phase = shared_phases(tmp_path)
    assert shared.load(phase, TEMPLATE) is None
    with shared.turn(phase):
        shared.save(phase, PART, RECORDS, 12.5, *ABOUT)
    part, left = shared_phases(tmp_path)[0].load(phase, TEMPLATE)
    assert jax.tree.structure(part) == jax.tree.structure(PART)
    for found, kept in zip(*map(jax.tree.leaves, (part, PART)), strict=True):
        assert found.dtype == kept.dtype
        np.testing.assert_array_equal(found, kept)
    assert (left.records, left.seconds) == (RECORDS, 12.5)
    assert (left.fingerprint, left.seeds) == ABOUT
    # Nothing half written stands beside it.
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [shared.folder(phase).name]
    # What is there is kept: another run was first.
    shared.save(phase, TEMPLATE, [], 1.0, *ABOUT)
    assert shared.load(phase, TEMPLATE)[1].seconds == 12.5


def test_other_data_or_versions_are_another_phase(tmp_path):
    shared, phase = shared_phases(tmp_path)
    shared.save(phase, PART, RECORDS, 12.5, *ABOUT)
    for other in (shared_phases(tmp_path, "more data"), shared_phases(tmp_path, versions="2")):
        assert other[0].folder(phase) != shared.folder(phase)
        assert other[0].load(phase, TEMPLATE) is None
    assert shared.load(phase, TEMPLATE) is not None


def flip(path, place):
    """Damage one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "phase.json").unlink(),
        lambda folder: (folder / "phase.json").write_text("{"),
        lambda folder: (folder / "phase.json").write_text(json.dumps({"seconds": 1.0})),
        lambda folder: (folder / "arrays.safetensors").write_bytes(b"\x08\0\0\0"),
        lambda folder: flip(folder / "arrays.safetensors", -1),
        lambda folder: flip(folder / "phase.json", 40),
    ],
    ids=["no-records", "cut-records", "other-records", "cut-arrays", "one-weight", "one-number"],
)
def test_a_damaged_phase_is_trained_again(tmp_path, damage):
    shared, phase = shared_phases(tmp_path)
    shared.save(phase, PART, RECORDS, 12.5, *ABOUT)
    damage(shared.folder(phase))
    assert shared.load(phase, TEMPLATE) is None
    assert not shared.folder(phase).exists()
    shared.save(phase, PART, RECORDS, 3.0, *ABOUT)
    assert shared.load(phase, TEMPLATE)[1].seconds == 3.0


def test_a_part_with_other_arrays_is_trained_again(tmp_path):
    shared, phase = shared_phases(tmp_path)
    shared.save(phase, PART, RECORDS, 12.5, *ABOUT)
    assert shared.load(phase, TEMPLATE | {"new": jnp.zeros(2)}) is None


def test_stored_arrays_come_back_and_tell_their_damage(tmp_path):
    arrays = [np.arange(6.0, dtype=np.float32).reshape(2, 3), np.arange(4)]
    paths = [tmp_path / "support.npy", tmp_path / "support-1.npy"]
    shapes = [(array.shape, array.dtype) for array in arrays]
    assert load_arrays(paths, shapes) is None
    save_arrays(paths, arrays)
    for found, array in zip(load_arrays(paths, shapes), arrays, strict=True):
        np.testing.assert_array_equal(found, array)
    assert load_arrays(paths, [((3, 2), np.float32), shapes[1]]) is None
    assert load_arrays(paths, [shapes[0], ((4,), np.int32)]) is None
    for place in range(paths[0].stat().st_size):
        flip(paths[0], place)
        assert load_arrays(paths, shapes) is None
        flip(paths[0], place)
    assert load_arrays(paths, shapes) is not None


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    shared, phase = shared_phases(tmp_path / "file")
    with pytest.raises(RunStopped, match="could not be written"), shared.turn(phase):
        pass
