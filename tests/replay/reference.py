"""The slow, obvious twin of the replay: lists of episodes, every transition worked out anew."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from replay.types import Field


@dataclass
class Episode:
    """Frames 0..N, the steps between them, and how it ended."""

    start: int  # the lane's time of frame 0
    frames: list[dict[str, np.ndarray]]
    actions: list[np.ndarray] = field(default_factory=list)  # actions[i] led to frame i + 1
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated


@dataclass
class Transition:
    observation: dict[str, np.ndarray]
    action: np.ndarray
    reward: float
    discount: float
    next_observation: dict[str, np.ndarray]


class NaiveReplay:
    """`transitions()` is the whole truth: row id -> Transition, for all that may be sampled."""

    def __init__(
        self,
        capacity: int,
        spec: dict[str, Field],
        *,
        lanes: int,
        n_step: int,
        gamma: float,
        alpha: float,
        eps: float,
    ) -> None:
        self.rows = -(-capacity // lanes)
        self.spec, self.lanes, self.n_step, self.gamma = spec, lanes, n_step, gamma
        self.alpha, self.eps = alpha, eps
        self.episodes: list[list[Episode]] = [[] for _ in range(lanes)]
        self.written = [0] * lanes
        self.priority: dict[int, np.float32] = {}
        self.greatest = np.float32(1)
        self.nan_count = 0

    def reset(self, frame: dict[str, np.ndarray], lanes: list[int]) -> None:
        for i, lane in enumerate(lanes):
            if self.episodes[lane] and not self.episodes[lane][-1].over:
                self.episodes[lane][-1].truncated = True
            self._begin(lane, {name: value[i] for name, value in frame.items()})
        self._refresh()

    def add(
        self,
        frame: dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        lanes: list[int],
    ) -> None:
        for i, lane in enumerate(lanes):
            item = {name: value[i] for name, value in frame.items()}
            if self.episodes[lane][-1].over:
                self._begin(lane, item)
            else:
                episode = self.episodes[lane][-1]
                episode.frames.append(item)
                episode.actions.append(action[i])
                episode.rewards.append(float(reward[i]))
                self.written[lane] += 1
            self.episodes[lane][-1].terminated = bool(terminated[i])
            self.episodes[lane][-1].truncated = bool(truncated[i])
        self._refresh()

    def update(self, index: np.ndarray, error: np.ndarray) -> None:
        fresh = []
        for row, value in zip(index.tolist(), error, strict=True):
            if np.isnan(value):
                self.nan_count += 1
            elif row in self.priority:
                priority = np.float32(abs(float(value)) + self.eps)
                fresh.append((row, priority))
                if np.isfinite(priority):
                    self.greatest = max(self.greatest, priority)
        if self.alpha:
            for row, priority in fresh:
                self.priority[row] = min(priority, self.greatest)
        else:
            self.greatest = np.float32(1)

    def leaves(self) -> dict[int, np.float32]:
        return {
            row: np.float32(float(priority) ** self.alpha)
            for row, priority in self.priority.items()
        }

    def latest(self) -> dict[str, np.ndarray]:
        stacks = [self._stack(lane[-1], len(lane[-1].frames) - 1) for lane in self.episodes]
        return {name: np.stack([stack[name] for stack in stacks]) for name in self.spec}

    def transitions(self) -> dict[int, Transition]:
        found = {}
        reach = max(f.stack for f in self.spec.values()) - 1
        for lane, episodes in enumerate(self.episodes):
            oldest = self.written[lane] - self.rows
            for episode in episodes:
                last = len(episode.frames) - 1
                for i in range(last):
                    if not episode.over and i + self.n_step > last:
                        continue
                    if episode.start + max(0, i - reach) < oldest:
                        continue
                    steps = min(self.n_step, last - i)
                    terminal = episode.terminated and i + steps == last
                    found[(episode.start + i) * self.lanes + lane] = Transition(
                        observation=self._stack(episode, i),
                        action=episode.actions[i],
                        reward=sum(self.gamma**k * episode.rewards[i + k] for k in range(steps)),
                        discount=0.0 if terminal else self.gamma**steps,
                        next_observation=self._stack(episode, i + steps),
                    )
        return found

    def _begin(self, lane: int, frame: dict[str, np.ndarray]) -> None:
        self.episodes[lane].append(Episode(self.written[lane], [frame]))
        self.written[lane] += 1

    def _stack(self, episode: Episode, i: int) -> dict[str, np.ndarray]:
        return {
            name: np.concatenate(
                [
                    np.atleast_1d(episode.frames[max(0, i - back)][name])
                    for back in range(f.stack - 1, -1, -1)
                ]
            ).reshape(f.stacked_shape)
            for name, f in self.spec.items()
        }

    def _refresh(self) -> None:
        self.priority = {row: self.priority.get(row, self.greatest) for row in self.transitions()}
