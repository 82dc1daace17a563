"""SB3's replay buffer over a `PrioritizedReplay`.

SB3's vector environments reset in the step that ends an episode (SAME_STEP): `obs` of the next
`add` is the new episode's first. The ring wants that frame in a slot of its own (NEXT_STEP). So
`add` writes a step's result, terminal observations included, with its flags; and when an `obs`
begins an episode, its frame goes in before, by `reset` of that lane alone.

VecFrameStack pads a young stack with zeros where the ring repeats the first frame. Beside each
frame stands how many frames of its stack are such zeros, and `sample` blanks them.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from replay import checks
from replay.prioritized import PrioritizedReplay
from replay.types import Batch, Field

Array = NDArray[Any]


class PrioritizedSamples(NamedTuple):
    """A batch of B transitions: SB3's `ReplayBufferSamples`, with weights and row ids.

    observations       (B, *obs_shape), normalized if a VecNormalize was given
    actions            (B, 1) int64
    next_observations  like observations, m <= n_steps steps later
    dones              (B, 1) float32: 1 where it terminated, 0 where it was truncated
    rewards            (B, 1) float32: sum of gamma^k r over the m steps
    discounts          (B, 1) float32: gamma^m, and 0 where it terminated
    weights            (B, 1) float32 in (0, 1]: importance weights
    indices            (B,) int64: row ids, for `update_priorities`
    """

    observations: Tensor
    actions: Tensor
    next_observations: Tensor
    dones: Tensor
    rewards: Tensor
    discounts: Tensor
    weights: Tensor
    indices: Tensor


class PrioritizedReplayBuffer(ReplayBuffer):
    """SB3's replay buffer over a `PrioritizedReplay`, which is its attribute `replay`.

    Args:
        buffer_size: frames to hold, of all environments: one a step, and one more an episode.
        observation_space: Box, Discrete, MultiDiscrete or MultiBinary.
        action_space: Discrete.
        device: where batches go.
        n_envs: environments that write.
        optimize_memory_usage: refused, because each frame is stored once anyway.
        handle_timeout_termination: bootstrap where `TimeLimit.truncated` ended an episode; without
            it such an end counts as termination.
        alpha: exponent of the priorities, in [0, 1]; 0 is uniform, and all that plain DQN can use.
        beta: exponent of the weights at the start of training, in [0, 1]; see `PrioritizedDQN`.
        eps: added to |td_error|, above 0.
        n_steps: steps of reward before the bootstrap, at least 1.
        gamma: discount per step, in [0, 1], the model's. Plain DQN heeds it where n_steps > 1.
        frame_stack: frames in an observation, of which the newest is stored: VecFrameStack's
            n_stack. Older ones may be zeros or the first frame, before an episode has enough.
        stack_axis: the observation's axis along which frames lie, oldest first: 0, as in images,
            which SB3 turns channels-first, or -1, as VecFrameStack stacks anything else.
        prioritization, weights: "proportional" or "rank", and over the greatest in the "batch" or
            in the whole memory ("global"); see `PrioritizedReplay`.
        seed: of the sampling; without one, drawn from NumPy's, which SB3's `seed` sets.
        storage: device of the memory itself; "cuda" is untried on a GPU.

    Raises:
        ValueError: an argument out of its range, or a space or stack that doesn't fit.
        MemoryError: the frames do not fit in memory; names the buffer_size that does.

    Schaul et al. 2016, section 3; the n-step return as in Hessel et al. 2018, section 3. SB3's
    arrays (`observations`, `dones` ...) don't exist. `pos` and `full` count the frames of the
    environment that has fewest. Pickling, as `save_replay_buffer` does, packs a snapshot;
    `save` and `load` write one that is incremental and can run no code.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: Any,
        action_space: Any,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        alpha: float = 0.6,
        beta: float = 0.4,
        eps: float = 1e-6,
        n_steps: int = 1,
        gamma: float = 0.99,
        frame_stack: int = 1,
        stack_axis: int = 0,
        prioritization: str = "proportional",
        weights: str = "batch",
        seed: int | None = None,
        storage: torch.device | str = "cpu",
    ) -> None:
        if optimize_memory_usage:
            raise ValueError(
                "optimize_memory_usage is for SB3's own buffer; leave it out: this one stores each "
                "observation once, and with frame_stack each frame"
            )
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        if isinstance(self.obs_shape, dict):
            raise ValueError("observation_space is a Dict; this buffer takes one array")
        if action_space.shape != () or not np.issubdtype(action_space.dtype, np.integer):
            raise ValueError(f"action_space is {action_space}; DQN's is Discrete")
        checks.whole("frame_stack", frame_stack)
        if stack_axis not in (0, -1):
            raise ValueError(f"stack_axis is {stack_axis}; it is 0 or -1")
        if not self.obs_shape or self.obs_shape[stack_axis] % frame_stack:
            raise ValueError(
                f"frame_stack is {frame_stack}, by which axis {stack_axis} of an observation "
                f"{self.obs_shape} can't be divided"
            )
        checks.share("beta", beta)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.alpha, self.beta, self.n_steps, self.gamma = alpha, beta, n_steps, gamma
        self.frame_stack, self.stack_axis = frame_stack, stack_axis
        rest = self.obs_shape[1:] if stack_axis == 0 else self.obs_shape[:-1]
        side = self.obs_shape[stack_axis] // frame_stack
        self._frame = Field((side, *rest), np.dtype(observation_space.dtype).name, frame_stack)
        self._options: dict[str, Any] = {
            "capacity": buffer_size,
            "observation": {"frame": self._frame, "blank": Field((), "uint8")},
            "lanes": n_envs,
            "n_step": n_steps,
            "gamma": gamma,
            "alpha": alpha,
            "eps": eps,
            "prioritization": prioritization,
            "weights": weights,
            "seed": np.random.randint(2**31) if seed is None else seed,
            "device": storage,
        }
        self.replay = PrioritizedReplay(**self._options)
        self.buffer_size = self.replay.store.rows
        self._running = np.zeros(n_envs, np.bool_)
        self._blank = np.zeros(n_envs, np.uint8)  # zero frames at the front of the newest stack
        self._newest: Array = np.zeros((n_envs, frame_stack, *self._frame.shape), self._frame.dtype)

    def add(
        self,
        obs: Array,
        next_obs: Array,
        action: Array,
        reward: Array,
        done: Array,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of each environment, of N = n_envs.

        `obs` and `next_obs` (N, *obs_shape), the latter with the terminal observation where `done`
        (N,); `action` (N,) or (N, 1); `reward` (N,) finite. An `obs` that isn't the last
        `next_obs` begins an episode, and cuts off the one that was running.

        ValueError, with no step stored, for a wrong shape or dtype, or stacks that do not follow
        one another by one frame each, so that the ring couldn't give them back.
        """
        before, after = self._stacks("obs", obs), self._stacks("next_obs", next_obs)
        over = np.asarray(done)
        if over.dtype != np.bool_ and not np.isin(over, (0, 1)).all():
            raise ValueError(f"done is {over.tolist()}; each is True or False")
        over = checks.array("done", over.astype(np.bool_), (self.n_envs,), "bool")
        if len(infos) != self.n_envs:
            raise ValueError(f"infos holds {len(infos)} dicts; expected {self.n_envs}")
        timeout = np.array([bool(info.get("TimeLimit.truncated")) for info in infos])
        cut = over & timeout & self.handle_timeout_termination
        begins = ~(self._running & _same(before, self._newest))
        first = np.flatnonzero(begins)
        blank = self._blank.copy()
        blank[first] = self._blank_at_start(before, first)
        self._require_shift(before, after, over)

        chosen = np.asarray(action)
        if chosen.shape == (self.n_envs, 1):
            chosen = chosen[:, 0]
        chosen = checks.array("action", chosen, (self.n_envs,), "int64")
        low = int(self.action_space.start)  # type: ignore[attr-defined]
        outside = (chosen < low) | (chosen >= low + int(self.action_space.n))  # type: ignore[attr-defined]
        if outside.any():
            raise ValueError(f"action is {chosen[outside][0]}, and the space {self.action_space}")
        reward = checks.rewards(reward, self.n_envs)
        if first.size:
            self.replay.reset({"frame": before[first, -1], "blank": blank[first]}, first)
        blank = np.maximum(blank, 1) - np.uint8(1)
        frames: dict[str, ArrayLike] = {"frame": after[:, -1], "blank": blank}
        self.replay.add(frames, chosen, reward, over & ~cut, cut)
        self._running, self._blank = ~over, blank
        self._newest[:] = after
        self._count()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw uniformly, for SB3's own algorithms; `discounts` is None where n_steps is 1.

        ValueError if alpha > 0, because they would never update a priority, and while nothing can
        be sampled.
        """
        if self.alpha > 0:
            raise ValueError(
                f"alpha is {self.alpha}, but this algorithm would never update the priorities; "
                "train replay.sb3.PrioritizedDQN, or set replay_buffer_kwargs=dict(alpha=0)"
            )
        drawn = self.sample_weighted(batch_size, 0.0, env)
        plain = ReplayBufferSamples(*drawn[:6])
        return plain if self.n_steps > 1 else plain._replace(discounts=None)

    def sample_weighted(
        self, batch_size: int, beta: float, env: VecNormalize | None = None
    ) -> PrioritizedSamples:
        """Draw by priority, with importance weights of exponent `beta` in [0, 1].

        A VecNormalize normalizes observations and rewards, as it would now. It clips single
        rewards, and a sum of n is clipped at what n such could reach. ValueError while nothing can
        be sampled.
        """
        if not self.replay.ready:
            raise ValueError(
                f"no transition of {self.n_steps} steps is complete yet; set learning_starts to "
                f"{self.n_steps * self.n_envs} or more"
            )
        batch = self.replay.sample(batch_size, beta)
        return PrioritizedSamples(
            observations=self._observation(batch.observation, env),
            actions=batch.action.unsqueeze(1).to(self.device),
            next_observations=self._observation(batch.next_observation, env),
            dones=(batch.discount == 0).float().unsqueeze(1).to(self.device),
            rewards=self._reward(batch, env).unsqueeze(1).to(self.device),
            discounts=batch.discount.unsqueeze(1).to(self.device),
            weights=batch.weight.unsqueeze(1).to(self.device),
            indices=batch.index,
        )

    def update_priorities(self, indices: Tensor, td_error: Tensor) -> None:
        """Give the rows `indices` (B,) of a batch the priorities |`td_error`| + eps.

        `td_error` is (B,) or (B, 1); see `PrioritizedReplay.update`.
        """
        self.replay.update(indices, td_error.detach().reshape(-1))

    def reset(self) -> None:
        """Forget everything, priorities included."""
        self.replay = PrioritizedReplay(**self._options)
        self._running[:] = False
        self._count()

    def save(self, folder: Path | str, previous: Path | str | None = None) -> None:
        """Write the memory into `folder`; see `PrioritizedReplay.save`."""
        self.replay.save(Path(folder), None if previous is None else Path(previous))

    def load(self, folder: Path | str) -> None:
        """Take over the memory in `folder`, whose running episodes count as truncated.

        See `PrioritizedReplay.load`.
        """
        self.replay.load(Path(folder))
        self._running[:] = False
        self._count()

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "replay"}
        with TemporaryDirectory() as folder:
            self.replay.save(Path(folder))
            state["snapshot"] = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "snapshot"})
        self.replay = PrioritizedReplay(**self._options)
        with TemporaryDirectory() as folder:
            for name, content in state["snapshot"].items():
                (Path(folder) / name).write_bytes(content)
            self.replay.load(Path(folder))

    def _stacks(self, name: str, value: Array) -> Array:
        """Observations as (N, frame_stack, *frame_shape) of their own."""
        given = np.asarray(value)
        if self.observation_space.shape == ():
            given = given.reshape(-1, 1)
        found = checks.array(name, given, (self.n_envs, *self.obs_shape), self._frame.dtype)
        if self.stack_axis == -1:
            found = np.moveaxis(found, -1, 1)
        return np.ascontiguousarray(found).reshape(self._newest.shape)

    def _blank_at_start(self, stacks: Array, first: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Zero frames (M,) before the newest, in the environments `first` (M,) that begin."""
        older, newest = stacks[first, :-1], stacks[first, -1:]
        repeated = _same(older, np.broadcast_to(newest, older.shape))
        zeros = _same(older, np.zeros_like(older))
        right = np.ones(self.n_envs, np.bool_)
        right[first] = repeated | zeros
        self._require(right)
        return np.where(repeated, 0, self.frame_stack - 1).astype(np.uint8)

    def _require_shift(self, before: Array, after: Array, over: NDArray[np.bool_]) -> None:
        follows = _same(before[:, 1:], after[:, :-1])
        if not np.issubdtype(after.dtype, np.integer):
            follows |= over  # VecNormalize gives terminal observations back rounded and clipped
        self._require(follows)

    def _require(self, right: NDArray[np.bool_]) -> None:
        if not right.all():
            raise ValueError(
                f"environment {np.flatnonzero(~right)[0]} gives observations that frame_stack "
                f"{self.frame_stack} along stack_axis {self.stack_axis} doesn't describe; if it "
                "does, steps were left out, and model.set_env(env) begins anew"
            )

    def _count(self) -> None:
        least = int(self.replay.store.written.min())
        self.pos, self.full = least % self.buffer_size, least >= self.buffer_size

    def _observation(self, fields: Any, env: VecNormalize | None) -> Tensor:
        """Stacks as SB3 gives them, from the replay's, which repeat an episode's first frame."""
        stacks: Tensor = fields["frame"]
        rows = fields["blank"].nonzero().squeeze(1)
        if len(rows):
            split = stacks[rows].unflatten(1, (self.frame_stack, -1))
            place = torch.arange(self.frame_stack, device=stacks.device)
            split[place < fields["blank"][rows].unsqueeze(1)] = 0
            stacks[rows] = split.flatten(1, 2)
        if self.stack_axis == -1:
            stacks = stacks.movedim(1, -1)
        if env is not None:
            stacks = torch.as_tensor(env.normalize_obs(stacks.cpu().numpy()))
        return stacks.to(self.device)

    def _reward(self, batch: Batch, env: VecNormalize | None) -> Tensor:
        if env is None or not env.norm_reward:
            return batch.reward
        scale = float(np.sqrt(env.ret_rms.var + env.epsilon))
        bound = env.clip_reward * sum(self.gamma**k for k in range(self.n_steps))
        return (batch.reward / scale).clamp(-bound, bound)


def _same(left: Array, right: Array) -> NDArray[np.bool_]:
    """Whether each (N, ...) of the one equals the other's, (N,)."""
    equal: NDArray[np.bool_] = (left == right).all(tuple(range(1, left.ndim)))
    return equal
