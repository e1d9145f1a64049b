"""Films show what the policy does: the point is where another simulation of it puts the point."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pointmass
import pytest
from PIL import Image

from stratdiff import video
from stratdiff.envs.identity import OUTSIDE, exact
from stratdiff.errors import RunStopped, UserError
from stratdiff.policy import Policy
from stratdiff.tasks import episode_seed

STEPS = 20
SHORT = exact(pointmass.ENV, max_episode_steps=STEPS)
SCALE = 3  # an 81 pixels wide picture is enlarged to at least 240
GAP = 4


def towards(gain):
    """A policy that moves towards the origin: tanh(-gain · position)."""
    weight = np.concatenate([-gain * np.eye(2), np.zeros((2, 2))], 1)[None].astype(np.float32)
    layers = [(weight, np.zeros((1, 4), np.float32))]
    return Policy("squashed", layers, np.zeros(2, np.float32), np.ones(2, np.float32))


def positions(gain, seed):
    """Where the point is at every step of an episode, from Gymnasium alone."""
    env = gymnasium.make("PointMass-v0")
    out = [env.reset(seed=seed)[0]]
    over = False
    while not over:
        action = np.tanh(-gain * out[-1].astype(np.float32)).astype(np.float32)
        obs, _, terminated, truncated, _ = env.step(action)
        out.append(obs)
        over = terminated or truncated or len(out) > STEPS
    return np.array(out)


def seen(picture):
    """Where a scene shows the red point."""
    array = np.asarray(picture.convert("RGB"), int)
    red = (array[..., 0] > 180) & (array[..., 1:] < 80).all(-1)
    rows, columns = np.nonzero(red)
    return np.array([columns.mean() / SCALE - 40.5, 30.5 - (rows.mean() - BAR) / SCALE]) / 6


BAR = int(1.6 * 12)
WIDTH = 81 * SCALE + GAP + (81 * SCALE + GAP) % 2


def scenes(picture):
    """The scenes that stand side by side."""
    count = round(picture.width / WIDTH)
    return [picture.crop((i * WIDTH, 0, (i + 1) * WIDTH, picture.height)) for i in range(count)]


def test_a_film_shows_the_episodes(tmp_path):
    path, seeds = tmp_path / "film.gif", [episode_seed(0, 1, e) for e in range(2)]
    done = []
    film = {"before": towards(0.2), "after": towards(2.0)}
    video.film(path, SHORT, film, seeds, lambda *at: done.append(at))
    expected = [[positions(gain, seed) for gain in (0.2, 2.0)] for seed in seeds]
    with Image.open(path) as gif:
        # The environment's ten steps a second, in real time, and one episode after the other.
        assert gif.info["duration"] == 100 and gif.info["loop"] == 0
        assert gif.n_frames == 2 * (STEPS + 1) == len(done)
        for i in range(gif.n_frames):
            gif.seek(i)
            episode, step = divmod(i, STEPS + 1)
            for scene, known in zip(scenes(gif), expected[episode], strict=True):
                # The picture has whole pixels, one sixth of a unit; the black origin hides a part.
                if np.linalg.norm(known[step]) > 1:
                    np.testing.assert_allclose(seen(scene), known[step], atol=0.2)
    assert done[-1] == (STEPS, STEPS)
    assert np.linalg.norm(expected[0][1][-1]) < 0.8 < np.linalg.norm(expected[0][0][-1])


def test_captions_differ_and_stand_above_the_picture(tmp_path):
    path = tmp_path / "film.gif"
    video.film(path, SHORT, {"before": towards(1.0), "after": towards(1.0)}, [5])
    with Image.open(path) as gif:
        gif.seek(10)
        left, right = (np.asarray(scene.convert("L")) for scene in scenes(gif))
    np.testing.assert_array_equal(left[BAR:], right[BAR:])
    assert (left[:BAR] < 100).sum() > 50 and (left[:BAR] != right[:BAR]).any()
    # The same text but for the word.
    assert (left[:BAR] < 100).sum() > (right[:BAR] < 100).sum() > 50


def test_mp4(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    path = tmp_path / "film.mp4"
    video.film(path, SHORT, {"": towards(1.0)}, [3])
    command = [ffmpeg, "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True)
    width, height = WIDTH, 61 * SCALE + BAR
    height += height % 2
    about = done.stderr.decode()
    assert "Video: h264" in about and f"{width}x{height}" in about and "10 fps" in about
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    assert len(pictures) == STEPS + 1
    tenth = Image.fromarray(pictures[10])
    np.testing.assert_allclose(seen(tenth), positions(1.0, 3)[10], atol=0.2)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


def test_of_a_fast_environment_not_every_step_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setitem(pointmass.PointMass.metadata, "render_fps", 50)
    path = tmp_path / "film.gif"
    video.film(path, pointmass.ENV, {"": towards(1.0)}, [3])
    with Image.open(path) as gif:
        assert gif.info["duration"] == 80  # 12.5 a second, every fourth step
        assert gif.n_frames == pointmass.HORIZON // 4 + 1


@pytest.mark.parametrize(
    ("name", "said"), [("film.avi", r"the suffix '\.avi'; a film is written as \.mp4 or \.gif"),
                       ("film", r"the suffix ''; a film")]
)  # fmt: skip
def test_other_suffixes(tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        video.film(tmp_path / name, pointmass.ENV, {"": towards(1.0)}, [3])


def test_missing_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"pip install 'stratdiff\[video\]' adds it"):
        video.check_name(tmp_path / "film.mp4")
    video.check_name(tmp_path / "film.gif")


class Blind(pointmass.PointMass):
    def __init__(self):
        super().__init__()


class Grey(pointmass.PointMass):
    def render(self):
        return np.zeros((4, 4))


class Broken(pointmass.PointMass):
    def render(self):
        raise RuntimeError("no screen")


class Failing(pointmass.PointMass):
    def step(self, action):
        raise RuntimeError("a wheel is off")


def blind():
    return Blind()


def grey(render_mode=None):
    return Grey(render_mode)


def broken(render_mode=None):
    return Broken(render_mode)


def failing(render_mode=None):
    return Failing(render_mode)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        (OUTSIDE, UserError, "has no environment by name, so it cannot be filmed"),
        ("test_video:blind", UserError, "with render_mode='rgb_array', so it cannot be filmed"),
        ("test_video:grey", UserError, r"drew float64 of shape \(4, 4\)"),
        ("test_video:broken", UserError, r"could not be drawn \(RuntimeError: no screen\)"),
        ("test_video:failing", RunStopped, r"wheel is off.* in step 1 .*, while it was filmed"),
    ],
)
def test_environments_that_cannot_be_filmed(tmp_path, name, kind, said):
    with pytest.raises(kind, match=said):
        video.film(tmp_path / "film.gif", name, {"": towards(1.0)}, [3])
    assert [*tmp_path.iterdir()] == []


def test_an_episode_without_a_time_limit_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_LONGEST", 25)
    text = exact(pointmass.ENV, max_episode_steps=-1)
    video.film(tmp_path / "film.gif", text, {"": towards(1.0)}, [3])
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.n_frames == 26


# ---- MuJoCo


@pytest.fixture
def no_choice(monkeypatch):
    """As in a fresh process without a display."""
    for variable in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(video, "choose_gl", video.choose_gl.__wrapped__)


@pytest.mark.parametrize(
    ("display", "works", "chosen"),
    [("", {"egl", "osmesa"}, "egl"), ("", {"osmesa"}, "osmesa"), (":0", {"glfw", "egl"}, "glfw"),
     (":0", {"egl"}, "egl")],
)  # fmt: skip
def test_what_works_is_chosen(no_choice, monkeypatch, display, works, chosen):
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setenv("MUJOCO_GL", "")  # so that it is taken away again
    monkeypatch.setattr(video, "_draws", works.__contains__)
    video.choose_gl()
    assert os.environ["MUJOCO_GL"] == chosen


def test_nothing_that_renders_is_one_sentence(no_choice, monkeypatch):
    monkeypatch.setattr(video, "_draws", lambda kind: False)
    with pytest.raises(UserError, match=r"neither EGL nor OSMesa works; .*libegl1.*libosmesa6"):
        video.choose_gl()
    assert "MUJOCO_GL" not in os.environ


def test_what_is_set_must_work(no_choice, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "crayons")
    with pytest.raises(UserError, match="MUJOCO_GL is 'crayons', which does not work"):
        video.choose_gl()  # MuJoCo itself refuses it, in a process of its own


def renders():
    """Whether MuJoCo can draw here at all."""
    kinds = ("egl", "osmesa")
    program = [sys.executable, "-c", video._TRIAL]
    return any(
        subprocess.run(program, env=os.environ | {"MUJOCO_GL": kind}, capture_output=True)
        .returncode == 0
        for kind in kinds
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "follows"),
    [
        ("HalfCheetah-v4", {}, True),
        ("Hopper-v4", {}, True),  # whose settings name a body to track, and a place to look at
        ("Walker2d-v4", {}, True),
        # A place that somebody chose to look at.
        ("Hopper-v5", {"default_camera_config": {"lookat": np.zeros(3), "distance": 5.0}}, False),
    ],
)
def test_the_camera_follows_what_runs_away(name, options, follows):
    env = gymnasium.make(name, render_mode="rgb_array", **options).unwrapped
    video._set_up(env)
    chosen = env.mujoco_renderer.camera_id
    assert (chosen != -1) == follows
    if follows:
        assert env.model.camera(chosen).name == "track"
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HalfCheetah-v4", "stratdiff/AntMaze-umaze-v2"])
def test_a_mujoco_film(tmp_path, monkeypatch, name):
    if not renders():
        pytest.skip("neither EGL nor OSMesa works on this machine")
    env = gymnasium.make(name)
    size, actions = env.observation_space.shape[0], env.action_space.shape[0]
    env.close()
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(1, size, 2 * actions)).astype(np.float32),
               np.zeros((1, 2 * actions), np.float32))]  # fmt: skip
    mean, std = np.zeros(size, np.float32), np.ones(size, np.float32)
    policy = Policy("squashed", layers, mean, std)
    text = exact(name, max_episode_steps=30)
    video.film(tmp_path / "film.gif", text, {"before": policy, "after": policy}, [1])
    with Image.open(tmp_path / "film.gif") as gif:
        first = np.asarray(gif.convert("RGB"), int)
        gif.seek(gif.n_frames - 1)
        last = np.asarray(gif.convert("RGB"), int)
    bar = round(1.6 * 20 * first.shape[1] / 968)
    assert first[bar:].std() > 20
    # It moves, and the same policy does the same twice.
    half = first.shape[1] // 2
    assert np.abs(first - last)[bar + 2 :].max() > 60
    assert np.abs(last[bar + 2 :, :half] - last[bar + 2 :, half:]).mean() < 8
