"""A run that is driven from outside: the bits of `train`, killed and reopened, bad input."""

import os
import signal
import time

import gymnasium
import numpy as np
import pytest
import runs

import stratdiff
from stratdiff.config import read_config
from stratdiff.errors import UserError
from stratdiff.sinks.progress import Reporter

KILLED_AT = 70


def opened(config, directory, **options):
    return stratdiff.Session(config, directory, **({"reporter": runs.QUIET} | options))


def same(result, other, cut=()):
    """Whether two runs are equal: weights, scores, log points.

    `cut`: log points of which the online averages leave out what came before a checkpoint.
    """
    assert result.summary["parameters_sha256"] == other.summary["parameters_sha256"]
    assert result.scores == other.scores
    both = [runs.log_points(run.directory) for run in (result, other)]
    for points in both:
        for i in cut:
            kept = ("phase", "step", "score", "score_std", "return")
            points[i] = {key: points[i].get(key) for key in kept}
    assert both[0] == both[1]
    return True


def test_a_loop_of_ones_own_gives_the_bits_of_train(small_run, tmp_path):
    """One seed: states are [obs], rewards numbers. Saving in between changes nothing."""
    config = read_config(small_run.directory / "config.json")
    with opened(config, tmp_path / "run") as session:
        session.save()
        session.pretrain()
        assert session.episode(0) == (0, 0) and not session.done

        def after_observe(step):
            if step in (25, 40, 41, 60, 120):  # within an episode, at ends of episodes
                session.save()
            if step == 50:
                assert session.episode(0) == (1, 10)

        runs.Driver(session).drive(after_observe=after_observe)
        assert session.done
        with pytest.raises(UserError, match=r"all 120 online steps .* call finish\(\)"):
            session.act(np.zeros(2))
            session.observe(0.0, np.zeros(2), False)
        assert same(session.finish(), small_run)


@pytest.mark.slow
def test_two_seeds_side_by_side_give_the_bits_of_train(tiny, tmp_path):
    """States are [seeds, obs]; evaluation has environments of its own."""
    config = tiny(seeds=[3, 5], score="support", base="calql", offline_steps=20)
    trained = stratdiff.train(config, tmp_path / "train", reporter=runs.QUIET)
    with opened(config, tmp_path / "session") as session:
        runs.Driver(session).drive()
        assert same(session.finish(), trained)
    assert len({*trained.summary["parameters_sha256"]}) == 2


def child(config, directory):
    """Trains for a while, saves, goes on a little and is killed; runs in a process of its own."""
    session = opened(read_config(config), directory)

    def after_observe(step):
        if step == KILLED_AT:
            session.save()
            newest = session.directory / "checkpoints" / str(session.position.total_steps)
            while not newest.is_dir():  # the disk follows
                time.sleep(0.01)
        if step == KILLED_AT + 5:
            os.kill(os.getpid(), signal.SIGKILL)

    runs.Driver(session).drive(after_observe=after_observe)


@pytest.fixture(scope="module")
def killed(small_run, tmp_path_factory, programs):
    """The directory of a session of `small_run`'s options that was killed within an episode."""
    directory = tmp_path_factory.mktemp("killed") / "run"
    config = small_run.directory / "config.json"
    code = "from stratdiff import registry; registry.trust('*'); import test_session as t; "
    code += f"t.child({str(config)!r}, {str(directory)!r})"
    # With the flags of this process, whose run it is compared with.
    flags = {"XLA_FLAGS": os.environ["XLA_FLAGS"]}
    flags["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(programs))
    path = os.pathsep.join((str(runs.TESTS / "training"), str(runs.TESTS), runs.SRC))
    process = runs.process(programs, "-c", code, **flags, PYTHONPATH=path)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, text
    return directory


@pytest.mark.slow
def test_a_killed_session_goes_on_with_its_episode_to_the_same_bits(killed, small_run, tmp_path):
    with opened(small_run.config, runs.copy(killed, tmp_path / "run")) as session:
        driver = runs.Driver(session)
        assert session.position.step == KILLED_AT
        assert session.episode(0) == (1, KILLED_AT - 40)
        driver.drive()
        # The log points too: the averages since the last one are in the checkpoint.
        assert same(session.finish(), small_run)


@pytest.mark.slow
def test_a_caller_that_cannot_replay_goes_on_with_a_warning(killed, small_run, tmp_path):
    said = tmp_path / "said"
    with said.open("w") as stream:
        directory = runs.copy(killed, tmp_path / "run")
        with opened(small_run.config, directory, reporter=Reporter(stream)) as session:
            runs.Driver(session, replay=False).drive()
            assert session.episode(0) == (3, 10)  # the abandoned one counts
            result = session.finish()
    warnings = [line for line in said.read_text().splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "the episode of seed 0 could not be continued" in warnings[0]
    assert "will not equal an uninterrupted one" in warnings[0]
    points = runs.log_points(result.directory)
    assert len(points) == len(runs.log_points(small_run.directory))
    assert points[-1]["step"] == 120
    assert result.summary["parameters_sha256"] != small_run.summary["parameters_sha256"]


class Float32(gymnasium.Wrapper):
    """States in single precision, as many simulators have them."""

    def reset(self, **options):
        obs, info = super().reset(**options)
        return obs.astype(np.float32), info

    def step(self, action):
        obs, *rest = super().step(action)
        return obs.astype(np.float32), *rest


@pytest.mark.slow
def test_an_episode_of_single_precision_states_is_replayed(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "make_env", lambda: Float32(gymnasium.make("PointMass-v0")))
    config = tiny(score="none", eval_episodes=0, offline_steps=20, online_steps=80)
    results = []
    for name, stop in (("whole", None), ("cut", 60)):
        with opened(config, tmp_path / name) as session:
            runs.Driver(session).drive(stop)
            session.save()
            if session.done:
                results.append(session.finish())
    with opened(config, tmp_path / "cut") as session:
        runs.Driver(session).drive()  # it asserts that the episode could be replayed
        results.append(session.finish())
    assert same(*results)


# Without any environment


@pytest.fixture
def outside(tiny, tmp_path):
    """Opens the session of a run whose environment the package never sees."""
    config = tiny(env=stratdiff.OUTSIDE, score="none", offline_steps=20)
    return lambda: opened(config, tmp_path / "run")


@pytest.mark.slow
def test_a_robot_whose_sensor_fails_is_resumed(outside, tiny, tmp_path):
    """Bad values stop the run with one sentence; its checkpoint is good."""
    with pytest.raises(UserError) as caught, outside() as session:
        driver = runs.Driver(session)

        def after_observe(step):
            if step == 45:
                driver.envs[0].unwrapped.position[:] = np.nan

        driver.drive(after_observe=after_observe)
    assert "gave an observation that is NaN or infinite, at online step 45" in str(caught.value)
    assert "nothing of that step is stored" in str(caught.value)
    assert f"resume {str(tmp_path / 'run')!r}" in str(caught.value)

    with outside() as session:
        assert session.position.step == 40  # the last log point
        runs.Driver(session).drive()
        result = session.finish()
    # Neither the failure nor the missing environment changes what is learned.
    config = tiny(score="none", offline_steps=20)
    trained = stratdiff.train(config, tmp_path / "train", reporter=runs.QUIET)
    assert result.summary["parameters_sha256"] == trained.summary["parameters_sha256"]
    assert result.scores == {} and result.summary["score"] == {}
    assert result.config.env == stratdiff.OUTSIDE
    assert (result.directory / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert "not evaluated" in repr(result)
    points = runs.log_points(result.directory)
    assert [p["step"] for p in points if p["phase"] == "online"] == [20, 40, 60, 80, 100, 120]
    assert not any("score" in p for p in points)


def test_bad_input_is_one_sentence_and_changes_nothing(outside, tmp_path):
    def refused(call, *words):
        with pytest.raises(UserError) as caught:
            call()
        for word in (*words, f"at online step {session.position.step}"):
            assert word in str(caught.value), word
        assert "\n" not in str(caught.value)

    state = np.array([0.5, -1.0])
    with outside() as session:
        refused(lambda: session.observe(1.0, state, False), "without act() before it")
        refused(lambda: session.act(np.zeros(3)), "an observation of shape (3,)", "expected (2,)")
        refused(lambda: session.act(np.zeros((2, 2))), "of shape (2, 2)", "expected (2,)")
        refused(lambda: session.act([np.inf, 0.0]), "an observation that is NaN or infinite")
        refused(lambda: session.act("left"), "'left', which is not made of numbers")
        action = session.act(state)
        assert action.shape == (2,) and np.abs(action).max() <= 1
        action[:] = 7  # the caller's copy
        before = session.episode(0)
        for values, words in (
            ((np.nan, state, False), ("a reward that is NaN or infinite",)),
            (("fast", state, False), ("a reward 'fast', which is not made of numbers",)),
            (([1.0, 2.0], state, False), ("a reward of shape (2,)", "expected ()")),
            ((1.0, [np.nan, 0.0], False), ("an observation that is NaN",)),
            ((1.0, np.zeros(1), False), ("an observation of shape (1,)",)),
            ((1.0, state, [False, True]), ("a terminated flag of shape (2,)",)),
            ((1.0, state, False, [False, True]), ("a truncated flag of shape (2,)",)),
        ):
            refused(lambda values=values: session.observe(*values), *words)
        assert session.episode(0) == before
        session.observe(np.array([1.0]), state, np.False_)  # one element is a number
        refused(lambda: session.observe(1.0, state, False), "without act() before it")
        assert session.episode(0) == (0, 1)
        assert (session.act(state[None]).shape, session.position.step) == ((1, 2), 1)
        stored = session._loop.state.replay.data
        assert np.abs(np.asarray(stored.action[0, 0])).max() <= 1
        with pytest.raises(UserError, match="has done 1 of 120 online steps; go on with act"):
            session.finish()


def test_another_runs_directory_is_left_alone(small_run, tiny):
    with pytest.raises(UserError, match=r"holds a run with utd 1, not 2; give another directory"):
        opened(tiny(save_policies=True, utd=2), small_run.directory)


def test_one_environment_object_cannot_evaluate_several_episodes(tiny, tmp_path):
    with pytest.raises(UserError, match="2 environments are needed"):
        opened(tiny(), tmp_path / "run", env=runs.make_env())
    assert not (tmp_path / "run").exists()
