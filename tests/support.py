"""Environments made for tests, whose frames say where they come from."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

End = tuple[int, Literal["terminated", "truncated"]]


class Tag(NamedTuple):
    """What a frame of TaggedEnv says of itself."""

    env: int
    """The environment's number, in [0, 255]."""
    episode: int
    """Episodes before this one, in [0, 65535]."""
    step: int
    """Steps since reset: 0 is the first frame; in [0, 65535]."""
    action: int
    """The action that led to it, -1 after a reset."""


class TaggedEnv(gymnasium.Env[np.ndarray, np.int64]):
    """A pixel environment that writes (env, episode, step, action) into its pixels.

    `ends` gives each episode's length in steps and how it ends, over and over. The reward of step
    s in episode e is `e + s / 1000`. All pixels differ from frame to frame, by a pattern that the
    tag determines: `TaggedEnv.frame` draws the expected one.

    env      number in [0, 255]; without one, the seed of the first reset modulo 256
    size     (H, W), with H * W at least 7
    layout   "HW", "HWC" or "CHW"; `channels` for the latter two
    start    first action of the Discrete space
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        env: int | None = None,
        ends: tuple[End, ...] = ((5, "terminated"), (7, "truncated")),
        size: tuple[int, int] = (16, 20),
        layout: Literal["HW", "HWC", "CHW"] = "HWC",
        channels: int = 1,
        actions: int = 3,
        start: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self.number = env
        self.ends = ends
        self.size = size
        self.layout = layout
        self.channels = channels
        self.render_mode = render_mode
        shape = {"HW": size, "HWC": (*size, channels), "CHW": (channels, *size)}[layout]
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(actions, start=start)
        self.episode = -1
        self.step_number = 0
        self.closed = False

    @staticmethod
    def frame(tag: Tag, size: tuple[int, int] = (16, 20), channels: int = 1) -> np.ndarray:
        """The frame of `tag`, (C, H, W) uint8."""
        height, width = size
        pattern = np.arange(channels * height * width) + 31 * tag.step + 17 * tag.episode + tag.env
        image = (pattern % 256).astype(np.uint8).reshape(channels, height * width)
        image[:, :7] = [
            tag.env,
            tag.episode >> 8,
            tag.episode & 255,
            tag.step >> 8,
            tag.step & 255,
            tag.action + 1,
            171,
        ]
        return image.reshape(channels, height, width)

    @staticmethod
    def read(frame: np.ndarray) -> Tag:
        """The tag of one frame, (C, H, W)."""
        env, e1, e0, s1, s0, action, mark = (int(v) for v in np.asarray(frame)[0].reshape(-1)[:7])
        assert mark == 171, f"not a frame of TaggedEnv: {frame}"
        return Tag(env, 256 * e1 + e0, 256 * s1 + s0, action - 1)

    @staticmethod
    def reward(tag: Tag) -> float:
        """Reward of the step that led to `tag`."""
        return tag.episode + tag.step / 1000

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if self.number is None:
            self.number = (seed or 0) % 256
        if seed is not None:
            self.episode = -1
        self.episode += 1
        self.step_number = 0
        self.last_action = -1
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is not in {self.action_space}")
        length, end = self.ends[self.episode % len(self.ends)]
        if self.step_number >= length:
            raise RuntimeError("step() after the end of an episode")
        self.step_number += 1
        self.last_action = int(action) - int(self.action_space.start)
        over = self.step_number == length
        reward = self.reward(self._tag())
        return (
            self._observe(),
            reward,
            over and end == "terminated",
            over and end == "truncated",
            {},
        )

    def render(self) -> np.ndarray:
        grey = self.frame(self._tag(), self.size)[0]
        return np.repeat(grey[:, :, None], 3, axis=2)

    def get_state(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "episode": self.episode,
            "step": self.step_number,
            "action": self.last_action,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.number = state["number"]
        self.episode = state["episode"]
        self.step_number = state["step"]
        self.last_action = state["action"]

    def close(self) -> None:
        self.closed = True

    def _tag(self) -> Tag:
        assert self.number is not None
        return Tag(self.number, self.episode, self.step_number, self.last_action)

    def _observe(self) -> np.ndarray:
        frame = self.frame(self._tag(), self.size, self.channels)
        if self.layout == "HW":
            return frame[0]
        return frame.transpose(1, 2, 0) if self.layout == "HWC" else frame


class Broken(gymnasium.Env[np.ndarray, np.int64]):
    """An environment whose constructor fails."""

    def __init__(self) -> None:
        raise KeyError("rig")


class PartsEnv(TaggedEnv):
    """A TaggedEnv with two cameras, a pose and a goal, each of which tells the same tag.

    camera     (16, 20, 1) uint8, channels last: `TaggedEnv.frame`
    arm/wrist  (3, 15, 17) uint8, channels first: likewise
    arm/pose   (4,) float32: the tag itself
    goal       Discrete(5, start=2): `PartsEnv.goal`
    """

    WRIST = (15, 17)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        arm = {
            "wrist": spaces.Box(0, 255, (3, *self.WRIST), np.uint8),
            "pose": spaces.Box(-1, 2**16, (4,), np.float32),
        }
        self.observation_space = spaces.Dict(  # type: ignore[assignment]
            {
                "camera": self.observation_space,
                "arm": spaces.Dict(arm),
                "goal": spaces.Discrete(5, start=2),
            }
        )

    @staticmethod
    def goal(tag: Tag) -> int:
        """The goal at `tag`, in [2, 6]."""
        return 2 + (tag.env + 3 * tag.episode + tag.step) % 5

    def _observe(self) -> Any:
        tag = self._tag()
        arm = {"wrist": self.frame(tag, self.WRIST, 3), "pose": np.array(tag, np.float32)}
        return {"goal": np.int64(self.goal(tag)), "camera": super()._observe(), "arm": arm}


class BothEnv(gymnasium.Env[Any, np.int64]):
    """A picture bright on one side and a sign: right is action 1 where exactly one says so.

    One step an episode, reward 1 for the right action. Neither part alone tells it.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "picture": spaces.Box(0, 255, (36, 36, 1), np.uint8),
                "sign": spaces.Box(-1, 1, (1,), np.float32),
            }
        )
        self.action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        side, sign = (int(v) for v in self.np_random.integers(2, size=2))
        self.right = side ^ sign
        picture = self.np_random.integers(0, 60, (36, 36, 1)).astype(np.uint8)
        picture[:, 18 * side : 18 * side + 18] += 150
        self.seen = {"picture": picture, "sign": np.array([2 * sign - 1], np.float32)}
        return self.seen, {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.seen, float(action == self.right), True, False, {}
