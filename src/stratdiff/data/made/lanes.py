"""The rows of a made set: lanes of whole episodes, each with random numbers of its own.

A set has a fixed number of lanes, so its bits do not depend on how many processes make them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from stratdiff.data.made.antwalk import ACTION_NOISE
from stratdiff.data.made.recipes import SNAPSHOTS, MadeSet
from stratdiff.data.made.waypoints import Navigator, actions, features
from stratdiff.envs.antmaze import AntMaze
from stratdiff.envs.mazes import HORIZONS, SUCCESS_RADIUS, cell_xy, cells
from stratdiff.policy import Policy
from stratdiff.tasks import make_env

Arrays = dict[str, np.ndarray]

_LANES = 128
# Lanes that one worker steps together: few enough for many cores, enough for one policy call.
TOGETHER = 8
_TICK = 100


@dataclasses.dataclass(frozen=True)
class Part:
    """What the workers of a set need to know."""

    recipe: MadeSet
    size: int
    seed: int

    @property
    def episode(self) -> int:
        """Longest episode; D4RL's AntMaze collector makes one step more than its limit."""
        return HORIZONS[self.recipe.maze] + 1 if self.recipe.maze else 1000

    @property
    def lane_rows(self) -> int:
        """Rows after which a lane starts no further episode."""
        return -(-self.size // (_LANES * self.episode)) * self.episode

    @property
    def lanes(self) -> int:
        return -(-self.size // self.lane_rows)

    @property
    def chunks(self) -> int:
        return -(-self.lanes // TOGETHER)

    def chunk(self, number: int, before: int, tick: Callable[[int], None]) -> Arrays:
        """The rows of one chunk's lanes, one lane after the other, and the lanes' lengths.

        `tick` is told the rows made so far, `before` this chunk included.
        """
        lanes = range(number * TOGETHER, min((number + 1) * TOGETHER, self.lanes))
        rngs = [np.random.default_rng([self.seed, self.recipe.code, lane]) for lane in lanes]
        collect = _walk_maze if self.recipe.maze else _locomotion
        made = collect(self, lanes, rngs, lambda rows: tick(before + rows))
        episodes = [episode for lane in made for episode in lane]
        arrays = {key: np.concatenate([e[key] for e in episodes]) for key in episodes[0]}
        return arrays | {"lanes": np.array([sum(len(e["rewards"]) for e in lane) for lane in made])}


def trim(lanes: list[Arrays], size: int) -> None:
    """Drop last episodes, at most one a lane, while at least `size` rows are left.

    Lanes end with whole episodes, so together they hold more than was asked for; cutting only the
    end of the set would cost a replay set its best policies.
    """
    excess = sum(len(lane["rewards"]) for lane in lanes) - size
    order = np.random.default_rng(0).permutation(len(lanes))
    for lane in (lanes[i] for i in order):
        ends = np.flatnonzero(lane["terminals"] | lane["timeouts"])
        keep = ends[-2] + 1 if len(ends) > 1 else len(lane["rewards"])
        if len(lane["rewards"]) - keep <= excess:
            excess -= len(lane["rewards"]) - keep
            for key in lane:
                lane[key] = lane[key][:keep]


def _locomotion(
    part: Part, lanes: range, rngs: list[np.random.Generator], tick: Callable[[int], None]
) -> list[list[Arrays]]:
    """Episodes of D4RL's locomotion recipes, per lane."""
    ladder, first, last = _ladder(part)
    made = [make_env(part.recipe.env_id) for _ in lanes]
    states = [env.unwrapped.data for env in made]  # type: ignore[attr-defined]
    n, horizon = len(made), part.episode
    act = made[0].action_space.shape[0]  # type: ignore[index]
    obs = np.stack([made[i].reset(seed=int(rngs[i].integers(2**31)))[0] for i in range(n)])
    episodes: list[list[Arrays]] = [[] for _ in lanes]
    rows, length = np.zeros(n, int), np.zeros(n, int)
    columns: list[Any] = [("observations", "f4", obs.shape[1:]), ("actions", "f4", act)]
    columns += [("rewards", "f4"), ("terminals", "?"), ("timeouts", "?")]
    columns += [(f"infos/{key}", "f4", getattr(states[0], key).shape) for key in ("qpos", "qvel")]
    buffers = np.zeros((n, horizon), columns)

    def policy_of(i: int) -> int:
        """The policy of a lane's next episode: the set goes up the ladder from end to end."""
        position = (lanes[i] * part.lane_rows + rows[i]) / (part.lanes * part.lane_rows)
        return first + int(min(position, 1 - 1e-9) * (last - first))

    which = np.array([policy_of(i) for i in range(n)])
    running, steps = list(range(n)), 0
    while running:
        action = np.zeros((n, act), np.float32)
        for i in running:
            # -1, below the ladder: uniform actions, as in SAC's first steps.
            rng = rngs[i]
            action[i] = rng.standard_normal(act) if which[i] >= 0 else rng.uniform(-1, 1, act)
        for p in {which[i] for i in running if which[i] >= 0}:
            assert ladder is not None
            members = [i for i in running if which[i] == p]
            action[members] = ladder[p : p + 1].sample(obs[None, members], action[None, members])[0]
        for i in running:
            row = buffers[i, length[i]]
            row["observations"], row["actions"] = obs[i], action[i]
            row["infos/qpos"], row["infos/qvel"] = states[i].qpos, states[i].qvel
            obs[i], row["rewards"], terminated, truncated, _ = made[i].step(action[i])
            row["terminals"], row["timeouts"] = terminated, truncated and not terminated
            length[i] += 1
            if terminated or truncated:
                episode = buffers[i, : length[i]]
                episodes[i].append({key: episode[key].copy() for key, *_ in columns})
                rows[i], length[i] = rows[i] + length[i], 0
                obs[i] = made[i].reset(seed=int(rngs[i].integers(2**31)))[0]
                which[i] = policy_of(i)
        running = [i for i in running if rows[i] < part.lane_rows]
        steps += 1
        if steps % _TICK == 0:
            tick(int(rows.sum() + length.sum()))
    for env in made:
        env.close()
    return episodes


def _ladder(part: Part) -> tuple[Policy | None, int, int]:
    """(shipped policies, first, one past the last that the variant uses); -1: uniform actions."""
    if part.recipe.variant == "random":
        return None, -1, 0
    policies = Policy.load(SNAPSHOTS / f"{part.recipe.family}.safetensors")
    medium, expert = (policies.metadata[level] for level in ("medium", "expert"))
    steps = {"medium": (medium, medium + 1), "expert": (expert, expert + 1)}
    steps |= {"medium-replay": (-1, medium + 1), "full-replay": (-1, len(policies))}
    return policies, *steps[part.recipe.variant]


def _walk_maze(
    part: Part, lanes: range, rngs: list[np.random.Generator], tick: Callable[[int], None]
) -> list[list[Arrays]]:
    """Episodes of D4RL's AntMaze recipe, per lane: the ant walks to waypoints without end.

    Rewards are those of one evaluation goal for the whole set, which the collecting ant does not
    know: terminals can stand anywhere in an episode.
    """
    maze = str(part.recipe.maze)
    policy = Policy.load(SNAPSHOTS / "ant.safetensors")[:1]
    way = Navigator(maze)
    made = [AntMaze(maze) for _ in lanes]
    made[0].reset(seed=part.seed)
    target = made[0].draw_goal()
    multistart = part.recipe.variant != "umaze"
    n, horizon, everywhere = len(made), part.episode, cells(maze, "rgGe.")
    episodes: list[list[Arrays]] = [[] for _ in lanes]
    for number in range(part.lane_rows // horizon):
        goals, state = np.zeros((n, 2)), np.zeros((n, 29))
        for i, (env, rng) in enumerate(zip(made, rngs, strict=True)):
            # Goals of evaluation included: without them the medium set has no success at all.
            corner = cell_xy(maze, rng.choice(cells(maze, "gGe")))
            goals[i] = np.maximum(corner + rng.uniform(0, 1, 2), 0) + rng.uniform(0, 0.5, 2)
            start = cell_xy(maze, rng.choice(everywhere)) if multistart else np.zeros(2)
            start = start + rng.uniform(-0.1, 0.1, 2)
            state[i], _ = env.reset(seed=int(rng.integers(2**31)), options={"xy": start})
        obs = np.zeros((n, horizon, 29), np.float32)
        action = np.zeros((n, horizon, 8), np.float32)
        for t in range(horizon):
            inside = np.stack([rng.uniform(0, 1, 2) for rng in rngs])
            noise = np.stack([rng.standard_normal(8) for rng in rngs])
            ahead = way.waypoints(state[:, :2], goals, inside) - state[:, :2]
            seen, quarter = features(state, ahead)
            moves = actions(policy.mode(seen[None])[0], quarter) + ACTION_NOISE * noise
            obs[:, t], action[:, t] = state, np.clip(moves, -1, 1)
            for i, env in enumerate(made):
                state[i], *_ = env.step(action[i, t])
            if t % _TICK == 0:
                tick(n * (number * horizon + t))
        for i in range(n):
            after = np.concatenate([obs[i, 1:, :2], state[i : i + 1, :2].astype(np.float32)])
            reached = np.linalg.norm(after - target, axis=1) <= SUCCESS_RADIUS
            flags = {"terminals": reached, "timeouts": np.arange(horizon) == horizon - 1}
            goal = np.tile(goals[i].astype(np.float32), (horizon, 1))
            steps = {"observations": obs[i], "actions": action[i], "rewards": reached.astype("f4")}
            episodes[i].append({**steps, **flags, "infos/goal": goal})
    return episodes
