"""DQN and its extensions by independent switches: network, losses, agent.

Mnih et al. 2013 and 2015; double (van Hasselt et al. 2016), dueling (Wang et al. 2016),
prioritized replay (Schaul et al. 2016), n-step returns (Sutton 1988), noisy networks (Fortunato et
al. 2018), the return's distribution (Bellemare et al. 2017); all of them at once are Rainbow
(Hessel et al. 2018). The options are `configs.dqn.DQNConfig`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.graph import Forward
from agents.linear import Linear, settle
from agents.modes import Training
from agents.noisy import NoisyLinear, resample, silence
from agents.optimizer import Adam, clip_grad_norm, take_up, take_up_generator
from agents.perception import Eyes, arithmetic, features, learnable, perceive
from agents.precision import computes_bf16
from agents.rmsprop import CentredRMSprop
from configs.dqn import DQNConfig, check
from replay import Batch, Observation
from replay.types import Shape, count, move
from vision import initialise

if TYPE_CHECKING:
    from agents.session import Session

# ---------------------------------------------------------------------------------------- losses


def td_target(reward: Tensor, discount: Tensor, next_q: Tensor, selector: Tensor) -> Tensor:
    """The value to learn: r + discount * next_q[argmax selector], each (B,) float32.

    `selector` is (B, A): next_q itself for Q-learning (Mnih et al. 2015, equation 2), the online
    network's values for double Q-learning (van Hasselt et al. 2016, equation 4).
    """
    best = selector.argmax(1, keepdim=True)
    return reward + discount * next_q.gather(1, best).squeeze(1)


def td_loss(error: Tensor, kind: str) -> Tensor:
    """Per-sample loss of an error (B,): its square over 2, or Huber's with a threshold of 1.

    Huber's is the papers' "clipped error": its gradient is the error clipped to [-1, 1] (Mnih et
    al. 2015, Methods).
    """
    if kind == "mse":
        return 0.5 * error.square()
    return F.huber_loss(error, torch.zeros_like(error), reduction="none")


def categorical_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Per-sample cross-entropy (B,) of distributions (B, N), and without gradients the divergence.

    logits, target  what the network gives for the action taken, and the distribution to learn
    The loss is Bellemare et al. 2017's, algorithm 1. The divergence, loss less the target's
    entropy, is the priority (Hessel et al. 2018, section 3), so that a target that is spread by
    nature is not replayed for ever.
    """
    loss = -(target * logits.log_softmax(1)).sum(1)
    return loss, (loss.detach() - torch.special.entr(target).sum(1)).clamp_min(0)


def pick(out: Tensor, action: Tensor) -> Tensor:
    """What `out` (B, A, ...) holds for each action (B,): (B, ...)."""
    index = action.view(-1, 1, *(1,) * (out.ndim - 2))
    return out.gather(1, index.expand(-1, 1, *out.shape[2:])).squeeze(1)


def project(probability: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """The distribution of reward + discount * return, on the fixed support.

    probability  (B, N), of the return after the transition
    support      (N,), evenly spaced
    Returns (B, N). Bellemare et al. 2017, algorithm 1, written as a triangle kernel between moved
    and fixed atoms, so that no index is scattered.
    """
    step = support[1] - support[0]
    moved = reward[:, None] + discount[:, None] * support
    moved = moved.clamp(support[0], support[-1])
    kernel = (1 - (moved[:, None, :] - support[None, :, None]).abs() / step).clamp_min(0)
    return (kernel * probability[:, None, :]).sum(2)


# --------------------------------------------------------------------------------------- network


class QNetwork(nn.Module):
    """An encoder, and a head that gives a value, or a distribution, to each action.

    The dueling head subtracts the mean advantage (Wang et al. 2016, equation 9). Its two streams'
    first layers are one matrix, which is the same mathematics in one multiplication; with noisy
    layers the streams thereby share their input's noise, which the papers leave open.

    With `bf16` the encoder and the head's large first layer compute in bfloat16; what makes
    values of them stays in float32.
    """

    support: Tensor

    def __init__(
        self,
        config: DQNConfig,
        observation_shape: Shape,
        num_actions: int,
        bf16: bool = False,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.bf16 = bf16
        linear = NoisyLinear if config.noisy else Linear
        self.num_actions, self.hidden, self.dueling = num_actions, config.hidden, config.dueling
        self.atoms = config.atoms if config.distributional else 1
        self.encoder, self.report = perceive(config, observation_shape, config.init, pretrained)
        self.first = linear(self.encoder.feature_dim, config.hidden * (1 + config.dueling))
        self.advantage = linear(config.hidden, num_actions * self.atoms)
        self.value = linear(config.hidden, self.atoms) if config.dueling else None
        support = torch.linspace(config.v_min, config.v_max, self.atoms)
        self.register_buffer("support", support, persistent=False)
        for layer in (self.first, self.advantage, self.value):
            if layer is not None:
                initialise(layer, config.init)

    def forward(self, observation: Observation) -> Tensor:
        """(B, *observation_shape) -> (B, A) action values, or (B, A, N) logits, float32."""
        with self.arithmetic():
            feature = self.encoder(observation)
        hidden = torch.relu(self.first(feature)).float()
        out = self.advantage(hidden[:, : self.hidden]).view(-1, self.num_actions, self.atoms)
        if self.value is not None:
            value = self.value(hidden[:, self.hidden :]).unsqueeze(1)
            out = value + out - out.mean(1, keepdim=True)
        return out.squeeze(2) if self.atoms == 1 else out

    def arithmetic(self) -> AbstractContextManager[Any]:
        """A context in which the encoder computes as it is to."""
        return arithmetic(self.encoder, self.bf16)

    def q(self, out: Tensor) -> Tensor:
        """The action values (B, A) in what `forward` gave: itself, or the expected return."""
        return out if self.atoms == 1 else (out.softmax(2) * self.support).sum(2)


@torch.inference_mode()
def greedy(network: QNetwork, observation: Observation) -> Tensor:
    """The actions (B,) int64 of the greatest value for (B, *observation_shape)."""
    return network.q(network(observation)).argmax(1)


# ----------------------------------------------------------------------------------------- agent


class DQN:
    """The agent: acts on stacked observations, learns from batches, knows nothing else.

    observation_shape  of the stacked observation: (stack * C, H, W), or (D,); by name where there
                       are several parts
    num_actions        actions are 0 .. num_actions - 1
    seed               of the initial weights, the exploration and the noise
    pretrained         read `encoder_weights`, where the config names any; `report` tells of them
    graphs             on CUDA, capture acting and learning; an encoder of your own that waits for
                       the device, or branches on what is there, can't be
    """

    def __init__(
        self,
        config: DQNConfig,
        observation_shape: Shape,
        num_actions: int,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        pretrained: bool = True,
        graphs: bool = True,
    ) -> None:
        check(config)
        self.config, self.num_actions = config, num_actions
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bf16 = computes_bf16(config.precision, self.device)
            online = QNetwork(config, observation_shape, num_actions, bf16, pretrained)
        self.report = online.report
        self.online = online.to(self.device).eval()
        self.target = settle(copy.deepcopy(self.online).requires_grad_(False))
        self._training = Training(self.online)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.explorer = np.random.Generator(np.random.PCG64(seed))
        self.optimizer = _optimizer(config, self.online)
        self.draws, self.graphs = config.noisy, graphs
        self._best = Forward(partial(greedy, self.online), graphs)
        self.updates = 0
        self.epsilon = 0.0 if config.noisy else config.epsilon_start
        self.beta = config.priority_beta

    @property
    def course(self) -> int:
        """1 where the next update renews the target network, too; see `agents.agent.Agent`."""
        return int((self.updates + 1) % self.config.target_update_every == 0)

    @staticmethod
    def on(env: str, *, preset: str | None = None, **options: Any) -> Session:
        """A run on an environment, by name: `DQN.on("CartPole-v1").learn(50_000)`.

        Options are the command line's, by field name; see `agents.session.Session`.
        """
        from agents.start import create

        return create("dqn", preset, {"env": env, **options})

    def anneal(self, step: int, steps: int) -> dict[str, float]:
        """Set exploration and importance correction for agent step `step` of `steps`."""
        config = self.config
        if not config.noisy:
            done = min(1.0, step / config.epsilon_steps) if config.epsilon_steps else 1.0
            self.epsilon = config.epsilon_start + done * (
                config.epsilon_final - config.epsilon_start
            )
        self.beta = config.priority_beta + min(1.0, step / steps) * (1 - config.priority_beta)
        return {"epsilon": self.epsilon, "beta": self.beta}

    def act(
        self,
        observation: Observation,
        *,
        explore: bool = True,
        epsilon: float = 0.0,
        explorer: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Actions (B,) int64 for observations (B, *observation_shape).

        With `explore` False the noise is silent and `epsilon` is the share of random actions,
        which `explorer` draws where it is given, so that an evaluation leaves training's random
        numbers alone. Networks are in eval mode here, always.
        """
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon is {epsilon}; it must lie in [0, 1]")
        share = self.epsilon if explore else epsilon
        draw = explorer or self.explorer
        size = count(observation)
        random = draw.random(size) < share
        action = draw.integers(0, self.num_actions, size)
        if not random.all():
            if self.config.noisy:
                resample(self.online, self.generator) if explore else silence(self.online)
            greedy = self._best(move(observation, self.device)).cpu().numpy()
            action = np.where(random, action, greedy)
        return action

    @torch.inference_mode()
    def values(self, observation: Observation) -> Tensor:
        """Action values (B, A) float32 of the online network."""
        return self.online.q(self.online(move(observation, self.device)))

    @torch.inference_mode()
    def encode(self, observation: Observation) -> dict[str, Tensor]:
        """Features (B, F) of each image, which every method takes in the image's place."""
        with self.online.arithmetic():
            return features(self.online.encoder, move(observation, self.device))

    def explained(self, action: Tensor) -> tuple[nn.Module, Eyes, Callable[[Tensor], Tensor]]:
        """What an explanation of `action` (B,) is of: a network without noise, its encoder, and the
        value (B, 1) of the action in what the network gives."""
        silence(self.online)
        q = self.online.q
        return self.online, self.online.encoder, lambda out: q(out).gather(1, action[:, None])

    def update(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """One optimiser step; returns metrics and each sample's error (B,), both detached.

        The importance weight multiplies the loss, not the error (Schaul et al. 2016, section 3.4).
        """
        config, online = self.config, self.online
        if config.noisy:
            resample(online, self.generator)
            resample(self.target, self.generator)
        target = self._target(batch)
        with self._training:
            mean, error, q = self._loss(batch, target)
        self.optimizer.zero_grad()
        mean.backward()
        if config.max_grad_norm:
            on_host = self.device.type == "cpu"
            clip_grad_norm(online.parameters(), config.max_grad_norm, ask=on_host)
        self.optimizer.step()
        if self.course:
            self.synchronise()
        self.updates += 1
        return {"loss": mean.detach(), "q": q}, error

    def compile(self) -> None:
        """Have torch compile what an update computes, from the next one on."""
        self._target, self._loss = torch.compile(self._target), torch.compile(self._loss)  # type: ignore[method-assign]

    def _loss(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean loss, and without gradients each sample's error (B,) and the mean value."""
        config, online = self.config, self.online
        out = online(batch.observation)
        chosen = pick(out, batch.action)
        if config.distributional:
            loss, error = categorical_loss(chosen, target)
        else:
            error = target - chosen
            loss = td_loss(error, config.loss)
            error = error.detach()
        return (batch.weight * loss).mean(), error, online.q(out.detach()).amax(1).mean()

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        """What the chosen action's output should be: values (B,), or distributions (B, N)."""
        following = self.target(batch.next_observation)
        next_q = self.target.q(following)
        selector = next_q
        if self.config.double:
            selector = self.online.q(self.online(batch.next_observation))
        if not self.config.distributional:
            return td_target(batch.reward, batch.discount, next_q, selector)
        best = pick(following, selector.argmax(1))
        return project(best.softmax(1), batch.reward, batch.discount, self.target.support)

    def synchronise(self) -> None:
        """Copy the online network into the target network: parameters and buffers."""
        self.target.load_state_dict(self.online.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning and acting depend on: tensors, numbers and strings in dicts."""
        return {
            "online": self.online.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "explorer": self.explorer.bit_generator.state,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a `state_dict` of the same configuration; RuntimeError where shapes differ."""
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["target"])
        take_up(self.optimizer, state["optimizer"])
        take_up_generator(self.generator, state["generator"])
        self.explorer.bit_generator.state = state["explorer"]
        self.updates = state["updates"]


def _optimizer(config: DQNConfig, network: QNetwork) -> torch.optim.Optimizer:
    parameters = learnable(config, network.encoder, network)
    rate, eps = config.learning_rate, config.optimizer_eps
    if config.optimizer == "adam":
        return Adam(parameters, rate, eps=eps)
    return CentredRMSprop(parameters, rate, config.rmsprop_decay, eps)
