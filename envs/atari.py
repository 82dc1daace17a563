"""Atari games, stepped by ALE's own threads (ale_py.vector_env.AtariVectorEnv).

Three things are done here rather than by ALE's flags, for reasons that its source shows:

- `episodic_life` starts a new game at every lost life, so later lives are never seen. Here a life
  is lost when ALE's counter falls to a value above 0 (at 0 the game is over, at once or, in Qbert,
  a few frames later), and the game goes on.
- A time limit of ALE's stops a step before its last frame is drawn, and would return a stale
  picture as the final observation. Here the limit is counted and the lane is reset.
- Rewards are clipped here, because the score needs them whole.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv

from envs.actions import Actions
from envs.protocol import Protocol
from envs.vector import Coded, EnvFault, Scores, Step, Turns, check_action, lane_seeds

_FIRE = 1  # its value in ALE; its place in a game's own action set differs
_NO_LIMIT = 2**30
_ODD_PALETTE = frozenset({"air_raid"})  # ALE draws it in greys that are not its colours' luma


class Atari:
    """`num_envs` copies of one game in native threads; frames are (1, size, size) grey uint8.

    `threads=0` takes one a core; results do not depend on it. `send` returns at once and `recv`
    waits without holding Python's lock.
    """

    def __init__(
        self,
        game: str,
        protocol: Protocol,
        *,
        num_envs: int,
        seed: int,
        evaluation: bool = False,
        stack: int = 4,
        frame_size: int = 84,
        threads: int = 0,
        render: bool = False,
    ) -> None:
        self.num_envs = num_envs
        self.stack: int | dict[str, int] = stack
        self.discrete: dict[str, Coded] = {}
        self.protocol: Protocol | None = protocol
        self.frame_space: gymnasium.spaces.Box | gymnasium.spaces.Dict = gymnasium.spaces.Box(
            0, 255, (1, frame_size, frame_size), np.uint8
        )
        self._life_loss = protocol.life_loss and not evaluation
        self._clip = protocol.reward_clip and not evaluation
        self._skip = protocol.frame_skip
        self.frame_rate = 60 / protocol.frame_skip
        self.episode_limit = 0
        self.dropped = 0
        self._max_frames = (
            protocol.evaluation_max_frames if evaluation else protocol.max_frames_per_episode
        )
        self._seeds = np.array(lane_seeds(seed, num_envs), np.int64)
        self._env = _make(game, protocol, num_envs, threads, (frame_size, frame_size), grey=True)
        self._twin = _Twin(game, protocol, int(self._seeds[0]), frame_size) if render else None
        taken = self._env.ale.get_action_set()
        names = tuple(action.name.lower() for action in taken)
        self.actions = Actions(gymnasium.spaces.Discrete(len(taken)), names, int, int)
        values = [action.value for action in taken]
        after_life = protocol.fire_reset and protocol.life_loss and _FIRE in values
        self._fire = values.index(_FIRE) if after_life else None

        self._turns = Turns()
        self._scores = Scores(num_envs)
        self._lives = np.zeros(num_envs, np.int32)
        self._lost = np.zeros(num_envs, bool)
        self._cut = np.zeros(num_envs, bool)

    def reset(self) -> np.ndarray:
        """Start every lane anew, from the seed given; returns (num_envs, 1, size, size)."""
        self._turns.reset()
        frame, info = self._env.reset(seed=self._seeds)
        self._scores.reset()
        self._lives = info["lives"]
        self._lost[:] = False
        self._cut[:] = False
        if self._twin is not None:
            self._twin.reset(frame[0], info)
        return frame

    def send(self, action: np.ndarray) -> None:
        """Start a step with (num_envs,) integers in [0, n)."""
        # ALE's threads die on a bad action, and recv would wait for ever.
        action = check_action(action, self.actions.space, self.num_envs)
        self._turns.send()
        if self._fire is not None:
            action[self._lost] = self._fire
        self._env.send(action)
        if self._twin is not None:
            self._twin.send(action[:1])

    def recv(self) -> Step:
        """Wait for the step that was sent."""
        self._turns.recv()
        frame, score, over, _, info = self._env.recv()
        lives = info["lives"]
        if self._cut.any():
            # ALE knows nothing of the limit and played on; these lanes should have been reset.
            fresh, info = self._env.reset(options={"reset_mask": self._cut})
            frame[self._cut] = fresh[self._cut]
            lives = np.where(self._cut, info["lives"], lives)
            score = np.where(self._cut, 0, score)
            over = over & ~self._cut
        if self._twin is not None:
            self._twin.recv(frame[0], score[0], over[0], info, cut=bool(self._cut[0]))

        fresh_lanes = self._scores.over
        frames_played = (self._scores.length + 1) * self._skip
        truncated = (frames_played >= self._max_frames) & ~fresh_lanes & ~over
        self._cut = truncated
        self._lost = (lives < self._lives) & (lives > 0) & ~fresh_lanes & ~over
        self._lives = lives
        episodes = self._scores.add(score, over | truncated)

        reward = score.astype(np.float32)
        if self._clip:
            np.clip(reward, -1, 1, out=reward)
        terminated = over | self._lost if self._life_loss else over
        return Step(frame, reward, terminated, truncated, episodes)

    def render(self) -> np.ndarray:
        """Picture of lane 0, (H, W, 3) uint8 in the console's own size."""
        self._turns.rest()
        if self._twin is None:
            raise RuntimeError("render() needs environments made with render=True")
        return self._twin.picture

    def get_state(self) -> dict[str, Any] | None:
        """None: ALE's vector environment does not hand out the emulator's state."""
        return None

    def set_state(self, state: dict[str, Any]) -> None:
        """Refused, since there is no state."""
        raise ValueError("Atari games have no state to go back to; reset() starts new games")

    def close(self) -> None:
        """Wait for a step under way, then stop ALE's threads."""
        if self._turns.closed:
            return
        if self._turns.close():
            self._env.recv()
            if self._twin is not None:
                self._twin.drain()
        self._twin = None
        del self._env


class _Twin:
    """Lane 0 once more, in colour and full size, because ALE draws in one format a time.

    The same seed and actions give the same game; each step compares reward, lives, frame counters
    and the picture with lane 0, and raises EnvFault where they part.
    """

    _TOLERANCE = 4  # grey levels, for rounding

    def __init__(self, game: str, protocol: Protocol, seed: int, frame_size: int) -> None:
        height, width = _screen(game)
        self._seed = np.array([seed], np.int64)
        self._env = _make(game, protocol, 1, 1, (height, width), grey=False)
        self._compares_pictures = game not in _ODD_PALETTE
        self._rows = _area(height, frame_size)
        self._columns = _area(width, frame_size).T
        self.picture = np.zeros((height, width, 3), np.uint8)

    def reset(self, frame: np.ndarray, info: dict[str, Any]) -> None:
        """Start the game; `frame` and `info` are those of the lanes."""
        picture, own = self._env.reset(seed=self._seed)
        self._compare(frame, picture, info, own)

    def send(self, action: np.ndarray) -> None:
        """Start a step with lane 0's action, shape (1,)."""
        self._env.send(action)

    def recv(
        self, frame: np.ndarray, score: float, over: bool, info: dict[str, Any], *, cut: bool
    ) -> None:
        """Wait for the step; `cut` where lane 0 has just been reset at the time limit."""
        picture, own_score, own_over, _, own = self._env.recv()
        if cut:
            picture, own = self._env.reset(options={"reset_mask": np.ones(1, bool)})
        elif own_score[0] != score or own_over[0] != over:
            raise EnvFault(
                f"lane 0: the picture's game returned reward {own_score[0]} and over "
                f"{own_over[0]}, the lane {score} and {over}; they should be one game"
            )
        self._compare(frame, picture, info, own)

    def drain(self) -> None:
        """Wait for the step under way."""
        self._env.recv()

    def _compare(
        self, frame: np.ndarray, picture: np.ndarray, info: dict[str, Any], own: dict[str, Any]
    ) -> None:
        self.picture = picture[0, 0]
        for key in ("lives", "frame_number", "episode_frame_number"):
            if own[key][0] != info[key][0]:
                raise EnvFault(
                    f"lane 0: the picture's game has {key} {own[key][0]}, the lane "
                    f"{info[key][0]}; they should be one game"
                )
        if not self._compares_pictures:
            return
        # ITU-R BT.601 luma, as in ALE's grey palette. Two frames pooled channel by channel are at
        # least as bright as the same two pooled in grey, and brighter where colours flicker; so
        # only pixels that are darker than lane 0's show another game.
        grey = self._rows @ (self.picture @ np.array([0.299, 0.587, 0.114])) @ self._columns
        darker = float(np.max(frame[0] - grey))
        if darker > self._TOLERANCE:
            raise EnvFault(
                f"lane 0: the picture is up to {darker:.0f} grey levels darker than the lane's "
                f"frame, {self._TOLERANCE} allowed; they should be one game"
            )


def _make(
    game: str,
    protocol: Protocol,
    num_envs: int,
    threads: int,
    size: tuple[int, int],
    *,
    grey: bool,
) -> AtariVectorEnv:
    return AtariVectorEnv(
        game,
        num_envs,
        num_threads=threads,
        stack_num=1,
        img_height=size[0],
        img_width=size[1],
        grayscale=grey,
        frameskip=protocol.frame_skip,
        repeat_action_probability=protocol.sticky,
        full_action_space=protocol.full_action_space,
        noop_max=protocol.noop_max,
        use_fire_reset=protocol.fire_reset,
        max_num_frames_per_episode=_NO_LIMIT,
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
    )


def _screen(game: str) -> tuple[int, int]:
    """Height and width of a game's screen: 210 or 250 by 160."""
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    path = roms.get_rom_path(game)
    assert path is not None, f"{game} is not a ROM of ALE"
    ale.loadROM(path)
    height, width = ale.getScreenDims()
    return int(height), int(width)


def _area(source: int, target: int) -> np.ndarray:
    """(target, source) weights that resize by area: each target pixel averages what it covers."""
    edges = np.arange(target + 1) * source / target
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(source)
    overlap = np.minimum(high, pixel + 1) - np.maximum(low, pixel)
    return np.clip(overlap, 0, None) / (high - low)
