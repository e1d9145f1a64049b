"""Films of policies, as mp4 or gif, made without a screen.

MuJoCo draws through EGL or OSMesa where there is no display. Which of them works is tried in a
process of its own, because a broken driver ends the process that asks it.
"""

import contextlib
import errno
import functools
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from stratdiff import process
from stratdiff.envs.identity import OUTSIDE
from stratdiff.errors import BadEnvironment, RunStopped, UserError, last_line
from stratdiff.files import replacing
from stratdiff.policy import Policy
from stratdiff.tasks import load_env, task_of_env

Frame = UInt8[np.ndarray, "height width 3"]

_FASTEST = {".mp4": 30.0, ".gif": 12.5}
"""Frames a second at most, by suffix; of a faster environment not every step is drawn."""
_GIF_WIDTH = 500
_NARROWEST = 240
_LONGEST = 1000
"""Steps of an episode whose environment has no time limit."""

_TRIAL = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(mujoco.MjData(model))
assert renderer.render().shape == (32, 32, 3)
"""


def check_name(path: Path) -> None:
    """Check that a film of this name can be written.

    Raises:
        UserError: its suffix is unknown, or ffmpeg is missing.
    """
    if path.suffix not in _FASTEST:
        raise UserError(
            f"{str(path)!r} has the suffix {path.suffix!r}; a film is written as .mp4 or .gif."
        )
    if path.suffix == ".mp4":
        try:
            import imageio_ffmpeg

            imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"{str(path)!r} needs the package imageio-ffmpeg, which is not installed; "
                "pip install 'stratdiff[video]' adds it. A .gif needs nothing."
            ) from error


def film(
    path: Path,
    environment: str,
    policies: Mapping[str, Policy],
    seeds: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Film an episode for each of `seeds`, with the policies side by side.

    Args:
        path: what to write, .mp4 or .gif.
        environment: an id, or a text from `identity.exact`.
        policies: the first of each acts, by its deterministic action; the keys are captions.
        seeds: environment seeds, one an episode; see `tasks.episode_seed`.
        progress: is called with the steps done of an episode and the most it may have.

    Raises:
        UserError: the name or the environment is unfit, or nothing here can render.
        RunStopped: the environment failed, or the film could not be written.
    """
    check_name(path)
    envs: list[Any] = []
    try:
        envs += [_opened(environment) for _ in policies]
        speed = float(envs[0].metadata.get("render_fps") or 30)
        every = math.ceil(speed / _FASTEST[path.suffix])
        limit = task_of_env(envs[0]).horizon or _LONGEST

        def pictures() -> Iterator[Frame]:
            for seed in seeds:
                scenes = [
                    _episode(env, policy, seed, caption, every, limit)
                    for env, (caption, policy) in zip(envs, policies.items(), strict=True)
                ]
                for i, picture in enumerate(_side_by_side(scenes)):
                    if progress is not None:
                        progress(min(i * every, limit), limit)
                    yield picture

        with replacing(path) as partial:
            partial.touch()  # a folder that cannot be written is found first
            write = _write_mp4 if path.suffix == ".mp4" else _write_gif
            write(partial, pictures(), speed / every)
    except BadEnvironment as error:
        raise RunStopped(f"{error.fact}, while it was filmed.") from error
    finally:
        for env in envs:
            env.close()


def check_environment(environment: str) -> None:
    """Check that an environment can be filmed: it is made, reset and drawn once.

    Raises:
        UserError: see `film`.
    """
    env = _opened(environment)
    try:
        env.reset(seed=0)
        _picture(env)
    finally:
        env.close()


def _opened(environment: str) -> Any:
    if environment in ("", OUTSIDE):
        raise UserError(
            "the run has no environment by name, so it cannot be filmed; film its policy in the "
            "program that trained it."
        )
    try:
        env = load_env(environment, render_mode="rgb_array")
    except BadEnvironment as error:
        raise UserError(
            f"{error.fact} with render_mode='rgb_array', so it cannot be filmed."
        ) from error
    if _draws_with_mujoco(env.unwrapped):
        choose_gl()
        _set_up(env.unwrapped)
    return env


def _draws_with_mujoco(env: Any) -> bool:
    return any("mujoco" in type(part).__module__ for part in (env, *vars(env).values()))


def _set_up(env: Any) -> None:
    """Draw plainly, and follow what runs away.

    Shadows, mirrors and smooth edges are slow in a software renderer. Gymnasium's own camera stands
    still from 1.4 on, also where its settings name a body to track; the model's camera "track" does
    not. One that looks at a place, as in a maze, stays there.
    """
    model: Any = getattr(env, "model", None)
    renderer: Any = getattr(env, "mujoco_renderer", None)
    if "mujoco" not in type(model).__module__:
        return
    model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
    model.mat_reflectance[:] = 0
    settings = getattr(renderer, "default_cam_config", None) or {}
    if renderer is not None and ("trackbodyid" in settings or "lookat" not in settings):
        with contextlib.suppress(KeyError):  # there is no such camera
            renderer.camera_id = model.camera("track").id


@functools.cache
def choose_gl() -> None:
    """Let MuJoCo draw through what works here, by MUJOCO_GL; one that is set already must work.

    Raises:
        UserError: nothing does.
    """
    given = os.environ.get("MUJOCO_GL", "")
    if sys.platform != "linux":
        return
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    kinds = [given] if given else [*(["glfw"] if display else []), "egl", "osmesa"]
    for kind in kinds:
        if _draws(kind):
            os.environ["MUJOCO_GL"] = kind
            return
    found = (
        f"MUJOCO_GL is {given!r}, which does not work" if given else "neither EGL nor OSMesa works"
    )
    advice = "unset it, or install" if given else "install"
    raise UserError(
        f"MuJoCo cannot draw here: {found}; {advice} one of the two (Debian: apt-get install "
        "libegl1 libgl1-mesa-dri, or libosmesa6)."
    )


def _draws(kind: str) -> bool:
    variables = os.environ | {"MUJOCO_GL": kind}
    command = [sys.executable, "-c", _TRIAL]
    try:
        done = subprocess.run(command, env=variables, capture_output=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _episode(
    env: Any, policy: Policy, seed: int, caption: str, every: int, limit: int
) -> Iterator[Frame]:
    """Every so many steps, and the last one, of an episode; values that are not finite end it."""
    obs, _ = env.reset(seed=seed)
    total, step, over = 0.0, 0, False
    while True:
        process.honour()
        if over or step % every == 0:
            said = [caption] if caption else []
            said += [f"step {step}", f"return {total:.1f}"]
            yield _captioned(_picture(env), ", ".join(said))
        if over:
            return
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        total, step = total + reward, step + 1
        over = terminated or truncated or step >= limit
        over = over or not (math.isfinite(total) and np.isfinite(obs).all())


def _picture(env: Any) -> Frame:
    try:
        picture = env.render()
    except Exception as error:
        raise UserError(f"{env.where} could not be drawn ({last_line(error)}).") from error
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UserError(
            f"{env.where} drew {array.dtype} of shape {array.shape}; a picture (height, width, 3) "
            "of uint8 is needed."
        )
    times = math.ceil(_NARROWEST / array.shape[1])
    return array.repeat(times, 0).repeat(times, 1)


def _captioned(picture: Frame, caption: str) -> UInt8[np.ndarray, "taller wider 3"]:
    """The picture, a line of text above it and a gap beside it; even sides, as video needs."""
    height, width = picture.shape[:2]
    size = max(12, width // 24)
    bar = int(1.6 * size)
    sides = width + 4, height + bar
    out = Image.new("RGB", (sides[0] + sides[0] % 2, sides[1] + sides[1] % 2), "white")
    out.paste(Image.fromarray(picture), (0, bar))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(out).text((size // 2, size // 4), caption, "black", font)
    return np.asarray(out)


def _side_by_side(scenes: list[Iterator[Frame]]) -> Iterator[Frame]:
    """Pictures beside each other; a scene that is over keeps its last one."""
    last: list[Any] = [None] * len(scenes)
    for pictures in itertools.zip_longest(*scenes):
        last = [old if new is None else new for old, new in zip(last, pictures, strict=True)]
        yield np.concatenate(last, 1)


def _write_mp4(path: Path, pictures: Iterator[Frame], speed: float) -> None:
    """Through ffmpeg, started here: imageio-ffmpeg's own writer forks, which JAX warns of."""
    from imageio_ffmpeg import get_ffmpeg_exe

    first = next(pictures)
    size = f"{first.shape[1]}x{first.shape[0]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(speed), "-i", "-"]
    form = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *form, str(path)]
    pipe = subprocess.PIPE
    # A signal from the terminal is ours.
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, start_new_session=True) as ffmpeg:
        assert ffmpeg.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it says why
                for picture in itertools.chain([first], pictures):
                    ffmpeg.stdin.write(picture.tobytes())
            said = ffmpeg.communicate()[1].decode(errors="replace")
        except BaseException:
            ffmpeg.kill()
            raise
    if ffmpeg.returncode:
        raise OSError(errno.EIO, (said.strip().splitlines() or ["ffmpeg failed"])[-1])


def _write_gif(path: Path, pictures: Iterator[Frame], speed: float) -> None:
    def small() -> Iterator[Image.Image]:
        for picture in pictures:
            image = Image.fromarray(picture)
            scale = min(1.0, _GIF_WIDTH / image.width)
            size = round(scale * image.width), round(scale * image.height)
            # Small files: colours by octree, which keeps rare ones, and still areas stay still.
            yield image.resize(size).quantize(256, Image.Quantize.FASTOCTREE)

    images = small()
    next(images).save(
        path, "GIF", save_all=True, append_images=images, duration=1000 / speed, loop=0
    )
