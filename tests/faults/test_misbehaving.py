"""Misbehaving environments: right values, or one sentence and an exit code; no run is lost."""

import re

import pytest
import runs
from trials import cases, clean, command, names, refused, result, same, well

# Refused before anything is written.
REFUSED = {
    "RaisesInInit": "model.xml",
    "SyntaxErrorInInit": "invalid syntax",
    "RaisesInReset": "does not answer",
    "NotANumberFromReset": "nan|NaN|finite",
    "WrongShape": "shape",
    "OldApi": "step|four|5|five",
    "OldReset": "reset",
    "ResetWithoutInfo": "reset",
    "DiscreteActions": "[Dd]iscrete",
    "InfiniteBounds": "bound|inf",
    "OneSidedBounds": "bound|inf",
    "NoneReward": "reward",
    "LongReward": "reward",
    "Endless": "max-episode-steps",
}
# The run ends with 1, and goes on in an environment that is mended.
STOPPED = {
    "RaisesInStep": "gripper is stuck",
    "RaisesInEvaluation": "second arm is missing",
    "ExitsInStep": "licence expired",
    "ExitsWithZero": "[Ee]xit",
    "NotANumberObserved": "nan|NaN|finite",
    "InfiniteReward": "inf|finite",
    "WrongShapeLater": "shape",
    "HugeObservation": "inf|finite|large|float32",
}
# The process dies: there is nobody to say it.
DEAD = {"DiesInStep": 7, "KillsItself": -9, "InterruptsItself": 130}
EQUAL = (
    "WritesIntoTheAction", "ReusesItsArray", "RewardOfOneElement", "RewardOfNoDimension",
    "FlagsOfNumpy", "FlagsOfOneElement", "FlagsAsNumbers", "ObservesAList", "WarnsAtEveryStep",
    "PrintsAtEveryStep", "WithoutInfo", "RaisesInClose",
)  # fmt: skip
TRAINED = ("IntegersFromReset", "ChangingType", "DoubleActions", "NarrowActions", "Nested")


def misbehaving(name):
    return f"misbehaving:{name}-v0"


def train(forks, data, run, name, **changes):
    return forks.run(*command(data, run, env=misbehaving(name), **changes))


@pytest.mark.parametrize(
    ("name", "said"), cases([(k, (k, v)) for k, v in REFUSED.items()], ["RaisesInInit"])
)
def test_refused_before_anything_is_written(name, said, forks, small_data, tmp_path):
    outcome = train(forks, small_data, tmp_path / "run", name)
    assert re.search(said, refused(outcome, codes=(2,))), outcome.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "said"), cases([(k, (k, v)) for k, v in STOPPED.items()]))
def test_stopped_and_resumable(name, said, forks, small_data, plain, tmp_path):
    run = tmp_path / "run"
    outcome = train(forks, small_data, run, name)
    sentence = refused(outcome, codes=(1,))
    assert re.search(said, sentence), sentence
    assert name in sentence
    mended(forks, run, plain, name)


@pytest.mark.parametrize(("name", "code"), cases([(k, (k, v)) for k, v in DEAD.items()]))
def test_a_process_that_dies(name, code, forks, small_data, plain, tmp_path):
    run = tmp_path / "run"
    outcome = clean(train(forks, small_data, run, name))
    assert outcome.code == code, outcome.text
    mended(forks, run, plain, name)


def mended(forks, run, plain, name):
    """The run goes on in the plain environment under the same name, to the plain run's bits."""
    job = {"env": {"MENDED": "1"}}
    well(forks.run("resume", run, "--trust-modules", **job))
    same(result(run), plain.result)
    assert names(run) == names(plain.directory)


@pytest.mark.parametrize("name", cases([(k, k) for k in EQUAL]))
def test_the_bits_of_the_plain_environment(name, forks, small_data, plain, tmp_path):
    well(train(forks, small_data, tmp_path / "run", name))
    same(result(tmp_path / "run"), plain.result)


@pytest.mark.parametrize("name", cases([(k, k) for k in TRAINED]))
def test_trained_in(name, forks, small_data, tmp_path):
    well(train(forks, small_data, tmp_path / "run", name))
    points = runs.log_points(tmp_path / "run")
    assert points[-1]["step"] == 80
    assert all(point["score"][0] is not None for point in points if "score" in point)


@pytest.mark.slow
@pytest.mark.faults
def test_an_evaluation_that_is_not_finite(forks, small_data, plain, tmp_path):
    """It is null, and nothing else changes."""
    run = tmp_path / "run"
    well(train(forks, small_data, run, "NotANumberInEvaluation"))
    assert runs.summary(run)["parameters_sha256"] == plain.result["parameters"]
    assert runs.summary(run)["score"]["after"]["per_seed"] == [None]
    assert [p["score"] for p in runs.log_points(run) if "score" in p][-1] == [None]


@pytest.mark.slow
@pytest.mark.faults
def test_one_instance_is_enough(forks, small_data, tmp_path):
    options = {"eval-episodes": 0}
    well(train(forks, small_data, tmp_path / "run", "OnlyOne", **options))


@pytest.mark.slow
@pytest.mark.faults
def test_no_time_limit_of_its_own(forks, small_data, plain, tmp_path):
    options = {"max-episode-steps": 40}
    well(train(forks, small_data, tmp_path / "run", "Endless", **options))
    same(result(tmp_path / "run"), plain.result)
