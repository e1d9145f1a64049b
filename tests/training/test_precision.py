"""`--precision`: which matrix products are rounded to bfloat16, and that nothing else is."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import steps

import stratdiff
from stratdiff import cpu
from stratdiff.phases import Phase
from stratdiff.training import online

# What may take rounded numbers: products, and what only moves or converts them.
MOVES = {"convert_element_type", "transpose", "reshape", "broadcast_in_dim", "concatenate"}


def programs(jaxpr):
    """A program and those within it: its loops, branches and calls."""
    yield jaxpr
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for sub in value if isinstance(value, tuple | list) else [value]:
                sub = getattr(sub, "jaxpr", sub)
                if hasattr(sub, "eqns"):
                    yield from programs(sub)


def products(whole):
    """(products of rounded numbers, others) in a program; nothing else takes rounded numbers."""
    low = full = 0
    for program in programs(whole.jaxpr):
        rounded = set()
        for equation in program.eqns:
            name, given = (
                equation.primitive.name,
                [v for v in equation.invars if not hasattr(v, "val")],
            )
            of_rounded = [v in rounded or v.aval.dtype == "bfloat16" for v in given]
            if name == "reduce_precision" or (name in MOVES and any(of_rounded)):
                rounded.update(equation.outvars)
            elif name == "dot_general":
                assert equation.outvars[0].aval.dtype == jnp.float32
                assert all(of_rounded) or not any(of_rounded)
                low, full = low + all(of_rounded), full + (not any(of_rounded))
            elif not name.startswith(("jit", "pjit", "custom", "cond", "scan", "while")):
                assert not any(of_rounded), name
    return low, full


@pytest.fixture(autouse=True)
def without_bfloat16(monkeypatch):
    """As on a processor without it: where there is one, scores round on their own account."""
    monkeypatch.setattr(cpu, "low_precision", lambda: jnp.float32)


def both(config):
    """(setup in float32, in bfloat16, state, data, what is stored)."""
    made, state, data, stored = steps.setup(config)
    low = dataclasses.replace(
        made, algorithm=dataclasses.replace(made.algorithm, precision="bfloat16")
    )
    one = jax.tree.map(lambda x: x[0], state)
    return made, low, one, data, jax.tree.map(lambda x: x[0], stored)


@pytest.mark.parametrize("base", ["iql", "calql", "rebrac", "sac"])
def test_every_product_of_a_phase_is_rounded_but_those_of_targets(tiny, base):
    score = "support" if base in ("iql", "calql") else "none"
    made, low, state, data, stored = both(tiny(base=base, score=score))
    key = jax.random.key(0)
    for full_phase, low_phase in zip(made.algorithm.phases(), low.algorithm.phases(), strict=True):
        if not isinstance(low_phase, Phase):
            continue
        traced = [
            jax.make_jaxpr(lambda state, p=p: p.update(state, data, stored, key))(state.learned)
            for p in (full_phase, low_phase)
        ]
        (none, all_of_them), (rounded, kept) = map(products, traced)
        assert none == 0
        # The energy model's targets, Q of the support, are a score's business: in full.
        assert rounded > 0
        assert (kept > 0) == (low_phase.name == "energy")
        # More: gradients by inputs that nobody reads, which the compiler drops.
        assert rounded + kept >= all_of_them


@pytest.mark.parametrize(("base", "score"), [("iql", "guided"), ("calql", "likelihood")])
def test_an_update_scores_in_full(tiny, base, score):
    made, low, state, data, stored = both(tiny(base=base, score=score))

    def update(setup):
        step = jax.tree_util.Partial(online.online_update, setup)
        return products(jax.make_jaxpr(step)(state, data, stored, jnp.asarray(0)))

    def scores(state):
        batch = online.sample_batch(made, state, data, stored, jnp.asarray(0))
        algorithm, learned = made.algorithm, state.learned
        agent = algorithm.view(learned)
        if score == "guided":  # its energy model learns from Q of the support
            agent.q(batch.transitions.obs, batch.stored)
        prepared = algorithm.score.prepare(learned.score, agent, batch)
        return algorithm.score.score(prepared, agent, batch, jax.random.key(0))

    of_scores = products(jax.make_jaxpr(scores)(state))
    none, all_of_them = update(made)
    rounded, kept = update(low)
    assert none == 0 and rounded > 0
    assert (0, kept) == of_scores
    assert kept < all_of_them <= rounded + kept


@pytest.mark.slow
@pytest.mark.parametrize("base", ["iql", "calql"])
def test_a_processor_with_bfloat16_compiles_every_product(tiny, base, monkeypatch):
    """XLA for CPUs lacks some of them ("Unsupported element type"), and says so when they run."""
    monkeypatch.setattr(cpu, "low_precision", lambda: jnp.bfloat16)
    _, low, state, data, stored = both(tiny(base=base, score="guided"))
    step = jax.jit(lambda s: online.online_update(low, s, data, stored, jnp.asarray(0)))
    compiled = step.lower(state).compile()
    assert "bf16[" in compiled.as_text()
    jax.block_until_ready(compiled(state))


def test_the_option_reaches_the_algorithm(tiny):
    assert tiny(precision="bfloat16").algorithm(2, 2, 1.0).precision == "bfloat16"
    assert tiny().algorithm(2, 2, 1.0).precision == "float32"


def test_a_run_says_when_the_processor_has_no_bfloat16(tiny, tmp_path, capsys):
    config = tiny(precision="bfloat16", score="none", offline_steps=20, online_steps=0, env="")
    result = stratdiff.train(config, tmp_path / "run")
    assert "no instructions for bfloat16" in capsys.readouterr().err
    assert result.config.precision == "bfloat16"
