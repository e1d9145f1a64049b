"""Starting from another run's pre-training: what is taken, what is refused, other seeds."""

import json
import shutil

import h5py
import jax
import numpy as np
import pytest
import runs

import stratdiff
from stratdiff.errors import UserError
from stratdiff.sinks.jsonl import read_metrics
from stratdiff.sinks.progress import Reporter
from stratdiff.training.session import Session


def started(config, directory, tmp_path):
    """(an open session that has taken or trained its pre-training, what it said)."""
    said = tmp_path / "said"
    with said.open("w") as stream, Session(config, directory, reporter=Reporter(stream)) as session:
        session.pretrain()
        state = jax.tree.map(np.asarray, session.state)
    return state, said.read_text()


def same_arrays(a, b):
    leaves = [jax.tree.leaves(x) for x in (a, b)]
    assert len(leaves[0]) == len(leaves[1])
    return all(np.array_equal(x, y) for x, y in zip(*leaves, strict=True))


def test_a_run_from_another_starts_where_that_one_did(small_run, tiny, tmp_path):
    """The same online options give the same run, bit for bit, without any pre-training."""
    config = tiny(from_run=str(small_run.directory), save_policies=True)
    said = (tmp_path / "said").open("w")
    result = stratdiff.train(config, tmp_path / "run", reporter=Reporter(said))
    said.close()
    assert result.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]
    assert runs.log_points(result.directory) == runs.log_points(small_run.directory)
    text = (tmp_path / "said").read_text()
    assert "other options: nothing" in text
    for phase in ("base", "behaviour", "energy"):
        assert f"{phase:<10} taken from {small_run.directory}" in text
    # What its score stored with D_off was not drawn again.
    assert not (result.directory / "support.npy").exists()
    # It can be started from in turn.
    again = tiny(from_run=str(result.directory))
    first, _ = started(again, tmp_path / "again", tmp_path)
    second, _ = started(config, tmp_path / "second", tmp_path)
    assert same_arrays(first.learned, second.learned)


def test_a_run_goes_on_without_the_one_that_it_started_from(small_run, tiny, tmp_path):
    runs.copy(small_run, tmp_path / "first")
    config = tiny(from_run=str(tmp_path / "first"), save_policies=True)
    started(config, tmp_path / "run", tmp_path)
    shutil.rmtree(tmp_path / "first")
    with (tmp_path / "said").open("w") as said:
        result = stratdiff.resume(tmp_path / "run", reporter=Reporter(said))
    assert "is no run directory" in (tmp_path / "said").read_text()
    assert result.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]
    # A run that has taken nothing yet needs it.
    with pytest.raises(UserError, match="is no run directory"):
        stratdiff.train(config, tmp_path / "new")


@pytest.mark.slow
def test_other_online_options_and_seeds(small_run, tiny, tmp_path):
    """One pre-trained seed serves many; their online streams differ."""
    options = {"seeds": (5, 6), "utd": 2, "rho": 0.3, "score": "support", "online_steps": 40}
    config = tiny(from_run=str(small_run.directory), **options)
    state, said = started(config, tmp_path / "run", tmp_path)
    line = next(line for line in said.splitlines() if line.startswith("from "))
    assert "seeds start from its 0 0" in line
    for words in ("--utd 2 (there 1)", "--rho 0.3 (there 0.5)", "--score support (there guided)"):
        assert words in line
    assert "behaviour  taken" in said and "energy" not in said
    own = tiny(from_run=str(small_run.directory))
    there, _ = started(own, tmp_path / "one", tmp_path)
    for i in range(2):
        assert same_arrays(
            jax.tree.map(lambda x, i=i: x[i], state.learned.agent),
            jax.tree.map(lambda x: x[0], there.learned.agent),
        )
    assert state.seed.tolist() == [5, 6]
    records = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "score" in r]
    assert records and all(r["score"][0] == r["score"][1] for r in records)


@pytest.mark.slow
def test_several_seeds_are_taken_by_name(tiny, tmp_path):
    config = tiny(seeds=(1, 2, 3), score="none", online_steps=0)
    stratdiff.train(config, tmp_path / "source", reporter=runs.QUIET)
    chosen = tiny(seeds=(3, 1), score="none", from_run=str(tmp_path / "source"))
    taken, said = started(chosen, tmp_path / "run", tmp_path)
    assert "seeds start" not in said
    source, _ = started(config, tmp_path / "source", tmp_path)
    expected = jax.tree.map(lambda x: x[[2, 0]], source.learned.agent)
    assert same_arrays(taken.learned.agent, expected)
    # A run that is cut off while it starts is resumed, and then needs the source no more.
    result = stratdiff.resume(tmp_path / "run", reporter=runs.QUIET)
    shutil.rmtree(tmp_path / "source")
    assert stratdiff.resume(tmp_path / "run", reporter=runs.QUIET).scores == result.scores


@pytest.mark.slow
def test_a_phase_with_other_options_is_trained_here(small_run, tiny, tmp_path):
    config = tiny(from_run=str(small_run.directory), behaviour_steps=40)
    _, said = started(config, tmp_path / "run", tmp_path)
    assert "base       taken" in said
    assert "behaviour  taken" not in said and "energy     taken" not in said
    kept = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert max(r["step"] for r in kept if r["phase"] == "behaviour") == 40


def test_what_does_not_fit_is_refused_before_anything_is_written(
    small_run, tiny, data_file, tmp_path
):
    def refused(match, source=small_run.directory, **options):
        with pytest.raises(UserError, match=match):
            stratdiff.train(
                tiny(from_run=str(source), **options), tmp_path / "run", reporter=runs.QUIET
            )
        assert not (tmp_path / "run").exists()

    refused("is no run directory", source=tmp_path / "nothing")
    refused("pre-trained with --base iql, and this run has calql", base="calql")
    refused("--offline-steps 60, and this run has 50", offline_steps=50)
    refused("--validation-fraction 0.0, and this run has 0.2", validation_fraction=0.2)
    other = tmp_path / "other.hdf5"
    shutil.copy(data_file, other)
    with h5py.File(other, "r+") as file:
        file["rewards"][3] += 0.25
    refused("data with the fingerprint", dataset=str(other))
    unfinished = runs.copy(small_run, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "pretrained")
    refused("holds no pre-training in the folder 'pretrained'", source=unfinished)


def test_networks_of_another_size_and_damage_are_named(small_run, tiny, tmp_path):
    sizes = {**runs.TINY["iql"], "critic_hidden": [9, 9]}
    with pytest.raises(
        UserError, match=r"'base', .*critic.*: found float32\[.*8\], expected float32\[.*9\]"
    ):
        stratdiff.train(
            tiny(from_run=str(small_run.directory), iql=sizes),
            tmp_path / "run",
            reporter=runs.QUIET,
        )
    assert not (tmp_path / "run").exists()
    damaged = runs.copy(small_run, tmp_path / "damaged")
    path = damaged / "pretrained" / "base" / "phase.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | {"seconds": 1.0}))
    config = tiny(from_run=str(damaged))
    with pytest.raises(UserError, match=r"pretrained/base' is damaged"):
        stratdiff.train(config, tmp_path / "other", reporter=runs.QUIET)
    assert not (tmp_path / "other").exists()
