"""AntMaze with D4RL's physics, mazes, start, goal, success and horizon.

Facts from Farama-Foundation/D4RL at 89141a6 (d4rl/locomotion). It is another simulator than
Gymnasium-Robotics' AntMaze: time step, torque, contact softness, coordinates and success radius
differ, so D4RL data must be evaluated here.
"""

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
from jaxtyping import Float

from stratdiff.envs.mazes import CELL, SUCCESS_RADIUS, cell_xy, cells, walls

FRAME_SKIP = 5


def _leg(number: int, x: int, y: int) -> str:
    """One leg: hip about z, ankle about a diagonal. x, y: the signs of its quadrant."""
    axis, degrees = "-1 1 0" if x == y else "1 1 0", "30 70" if x > 0 else "-70 -30"
    link, foot = f"{0.2 * x} {0.2 * y} 0", f"{0.4 * x} {0.4 * y} 0"
    return f"""
      <body>
        <geom type="capsule" size="0.08" fromto="0 0 0 {link}"/>
        <body pos="{link}">
          <joint name="hip_{number}" axis="0 0 1" range="-30 30"/>
          <geom type="capsule" size="0.08" fromto="0 0 0 {link}"/>
          <body pos="{link}">
            <joint name="ankle_{number}" axis="{axis}" range="{degrees}"/>
            <geom type="capsule" size="0.08" fromto="0 0 0 {foot}"/>
          </body>
        </body>
      </body>"""


def model_xml(maze: str) -> str:
    """The MuJoCo model: D4RL's ant among a maze's blocks.

    Torques are 30 times the action (D4RL: control range +-30, gear 1, actions scaled from +-1).
    """
    blocks = "".join(
        f"""
    <geom type="box" pos="{x} {y} 1" size="2 2 1" contype="1" conaffinity="1" rgba=".2 .2 .3 1"/>"""
        for x, y in cell_xy(maze, cells(maze, "#"))
    )
    legs = "".join(_leg(*leg) for leg in ((1, 1, 1), (2, -1, 1), (3, -1, -1), (4, 1, -1)))
    motors = "".join(
        f"""
    <motor joint="{joint}_{leg}" gear="30" ctrllimited="true" ctrlrange="-1 1"/>"""
        for leg in (4, 1, 2, 3)
        for joint in ("hip", "ankle")
    )
    return f"""<mujoco model="antmaze">
  <compiler angle="degree" inertiafromgeom="true"/>
  <option timestep="0.02" integrator="RK4"/>
  <default>
    <joint limited="true" armature="1" damping="1"/>
    <geom condim="3" conaffinity="0" margin="0.01" friction="1 0.5 0.5" solref=".02 1"
      solimp=".8 .8 .01" density="5" rgba=".8 .5 .2 1"/>
  </default>
  <worldbody>
    <light directional="true" pos="0 0 20" dir="0 0 -1" diffuse=".8 .8 .8"/>
    <geom name="floor" type="plane" conaffinity="1" size="40 40 40" rgba=".9 .9 .9 1"/>{blocks}
    <body name="torso" pos="0 0 0.75">
      <geom type="sphere" size="0.25"/>
      <joint name="root" type="free" limited="false" margin="0.01" armature="0" damping="0"/>{legs}
    </body>
    <site name="goal" type="cylinder" size="{SUCCESS_RADIUS} .05" rgba=".8 .1 .2 .6"/>
  </worldbody>
  <actuator>{motors}
  </actuator>
</mujoco>"""


class AntMaze(gymnasium.Env[np.ndarray, np.ndarray]):
    """The ant in a maze of `MAZES`. An episode ends at the goal; a fallen ant does not end it.

    Observation, 29: qpos (x, y, z, quaternion, 8 joint angles), qvel (linear, angular, 8 joints);
    the goal is not in it. Action, 8 in [-1, 1]: torque / 30. A step is 0.1 s. Reward: 1.0 where the
    step ends within `SUCCESS_RADIUS` of the goal, else 0.0.

    `reset(seed=)` draws, in this order, the goal (D4RL v2: anew at every reset) and the ant's
    state. `reset(options={"xy": ..., "goal": ...})` sets where the ant or the goal is.
    """

    metadata = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, maze: str, render_mode: str | None = None, width: int = 480, height: int = 480
    ) -> None:
        self.maze, self.render_mode = maze, render_mode
        self.model = mujoco.MjModel.from_xml_string(model_xml(maze))
        self.data = mujoco.MjData(self.model)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (8,), np.float32)
        self.goal = np.zeros(2)
        # Made on first use: most programs never render.
        self._renderer: MujocoRenderer | None = None
        self._size = (width, height)

    def draw_goal(self) -> Float[np.ndarray, " 2"]:
        """A goal by D4RL's rule, from `np_random`: in the goal cell, off its centre."""
        corner = cell_xy(self.maze, cells(self.maze, "Ge")[0])
        inside = np.maximum(corner + self.np_random.uniform(0, 0.25 * CELL, 2), 0)
        return inside + self.np_random.uniform(0, 0.5, 2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode: at the maze's start cell, at rest, with noise."""
        super().reset(seed=seed)
        options = options or {}
        self.goal = np.array(options.get("goal", self.draw_goal()), float)
        mujoco.mj_resetData(self.model, self.data)
        qpos = self.data.qpos + self.np_random.uniform(-0.1, 0.1, self.model.nq)
        qvel = 0.1 * self.np_random.standard_normal(self.model.nv)
        if "xy" in options:
            qpos[:2] = options["xy"]
        self.model.site("goal").pos[:2] = self.goal
        self.set_state(qpos, qvel)
        return self._observation(), {"goal": self.goal.copy()}

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Put the ant into a state; qpos [15], qvel [14]."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = qpos, qvel
        mujoco.mj_forward(self.model, self.data)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """0.1 s with constant torques."""
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, nstep=FRAME_SKIP)
        reached = bool(np.linalg.norm(self.data.qpos[:2] - self.goal) <= SUCCESS_RADIUS)
        info = {"goal": self.goal.copy(), "success": reached}
        if self.render_mode == "human":
            self.render()
        return self._observation(), float(reached), reached, False, info

    def _observation(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])

    def render(self) -> Any:
        """The whole maze from above."""
        if self._renderer is None:
            rows, columns = walls(self.maze).shape
            centre = cell_xy(self.maze, (np.array([rows, columns]) - 1) / 2)
            camera = {"lookat": [*centre, 0.0], "distance": 5.0 * max(rows, columns)}
            camera["elevation"] = -90
            self._renderer = MujocoRenderer(self.model, self.data, camera, *self._size)
        return self._renderer.render(self.render_mode)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
