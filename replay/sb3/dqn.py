"""SB3's DQN, taught importance weights and priorities."""

from __future__ import annotations

import torch
from stable_baselines3 import DQN
from torch import Tensor, nn
from torch.nn import functional as F

from replay.sb3.buffer import PrioritizedReplayBuffer, PrioritizedSamples


class PrioritizedDQN(DQN):
    """SB3's DQN with importance weights, priorities and n-step discounts.

    All of DQN's arguments. `replay_buffer_class` is PrioritizedReplayBuffer unless a subclass is
    given; it gets this model's `gamma` and `n_steps`, and `replay_buffer_kwargs` the rest. The
    weights' exponent rises linearly from the buffer's `beta` to 1 over `learn` (Schaul et al. 2016,
    section 3.4).

    Raises:
        TypeError: the replay buffer is another's.
        ValueError: `replay_buffer_kwargs` or a loaded buffer has another gamma or n_steps.
    """

    def _setup_model(self) -> None:
        if self.replay_buffer_class is None:
            self.replay_buffer_class = PrioritizedReplayBuffer
        if not issubclass(self.replay_buffer_class, PrioritizedReplayBuffer):
            raise TypeError(_another(self.replay_buffer_class))
        given, steps = self.replay_buffer_kwargs, self.n_steps
        told = given.get("n_steps", steps)
        if steps not in (1, told):
            raise ValueError(
                f"n_steps is {steps}, and {told} in replay_buffer_kwargs; the model's is enough"
            )
        # while SB3 sets up, these are the buffer's: it would warn that n_steps is ignored
        self.replay_buffer_kwargs = {"gamma": self.gamma, **given, "n_steps": told}
        self.n_steps = 1
        super()._setup_model()
        self.replay_buffer_kwargs = {k: v for k, v in given.items() if k != "n_steps"}
        self.n_steps = told
        self._buffer()

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take `gradient_steps` steps on weight times Huber loss, and update the priorities."""
        buffer = self._buffer()
        beta = 1 - (1 - buffer.beta) * min(max(self._current_progress_remaining, 0.0), 1.0)
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            batch = buffer.sample_weighted(batch_size, beta, self._vec_normalize_env)
            td_error = q_learning_errors(self.q_net, self.q_net_target, batch)
            huber = F.smooth_l1_loss(td_error, torch.zeros_like(td_error), reduction="none")
            loss = (batch.weights * huber).mean()
            self.policy.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            buffer.update_priorities(batch.indices, td_error)
            losses.append(loss.detach())
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", torch.stack(losses).mean().item())
        self.logger.record("train/beta", beta)

    def _buffer(self) -> PrioritizedReplayBuffer:
        buffer = self.replay_buffer
        if not isinstance(buffer, PrioritizedReplayBuffer):
            raise TypeError(_another(type(buffer)))
        for name in ("gamma", "n_steps"):
            theirs, ours = getattr(buffer, name), getattr(self, name)
            if theirs != ours:
                raise ValueError(f"the replay buffer's {name} is {theirs}, the model's {ours}")
        return buffer


def q_learning_errors(q_net: nn.Module, target_net: nn.Module, batch: PrioritizedSamples) -> Tensor:
    """Q(s, a) - (R + discount max_a' Q_target(s', a')), (B, 1), without a gradient of the target.

    Mnih et al. 2015, algorithm 1, with the n-step return R.
    """
    with torch.no_grad():
        bootstrap = target_net(batch.next_observations).amax(1, keepdim=True)
        target = batch.rewards + batch.discounts * bootstrap
    chosen: Tensor = q_net(batch.observations).gather(1, batch.actions)
    return chosen - target


def _another(kind: type) -> str:
    return f"the replay buffer is a {kind.__name__}; PrioritizedDQN needs PrioritizedReplayBuffer"
