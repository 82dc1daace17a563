"""DDPG and its extensions by independent switches: losses, networks, agent.

Deterministic policy gradients (Silver et al. 2014) with deep networks (Lillicrap et al. 2015); twin
critics, delayed and smoothed targets (Fujimoto et al. 2018: with all three it is TD3); from pixels,
random shifts (Yarats et al. 2021) and one encoder that the critic alone teaches (Yarats et al.
2022, DrQ-v2). The options are `configs.ddpg.DDPGConfig`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.exploration import Exploration
from agents.graph import Forward
from agents.heads import Layers
from agents.linear import settle
from agents.modes import Training
from agents.optimizer import Adam, take_up, take_up_generator
from agents.perception import Eyes, arithmetic, features, learnable, perceive, see
from agents.polyak import Polyak
from agents.precision import computes_bf16
from configs.ddpg import DDPGConfig, check
from replay import Batch, Observation
from replay.types import Shape, count, move
from vision.augment import random_shift

if TYPE_CHECKING:
    from agents.session import Session

# ---------------------------------------------------------------------------------------- losses


def td_target(reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """The value to learn, (B,): r + discount * the least of next_q (K, B) over the K critics.

    Lillicrap et al. 2015, algorithm 1, for one critic; Fujimoto et al. 2018, equation 10, for two.
    """
    return reward + discount * next_q.amin(0)


def critic_loss(error: Tensor) -> Tensor:
    """Per-sample loss (B,) of the critics' errors (K, B): the sum of their squares."""
    return error.square().sum(0)


def smooth(action: Tensor, noise: Tensor, clip: float) -> Tensor:
    """A target's action (B, A) with noise, clipped to ±clip, within [-1, 1].

    Fujimoto et al. 2018, equation 14.
    """
    return (action + noise.clamp(-clip, clip)).clamp(-1, 1)


# -------------------------------------------------------------------------------------- networks


class ActorCritic(nn.Module):
    """Encoder, actor and critics; online and target have one each.

    `forward` is the policy. With `bf16` image encoders and the large layers compute in bfloat16.
    """

    def __init__(
        self,
        config: DDPGConfig,
        observation_shape: Shape,
        action_size: int,
        bf16: bool = False,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.bf16 = bf16
        self.encoder, self.report = perceive(config, observation_shape, config.init, pretrained)
        self.eye: Eyes | None = None
        if config.encoder_weights and not config.shared_encoder:  # their file is read once
            self.eye = copy.deepcopy(self.encoder)
        elif not config.shared_encoder:
            self.eye, _ = perceive(config, observation_shape, config.init)
        size = self.encoder.feature_dim
        self.actor = Layers(config, size, action_size, bf16=bf16)
        count = 2 if config.twin else 1
        self.critics = nn.ModuleList(
            Layers(config, size, 1, action_size, bf16) for _ in range(count)
        )

    def see(self, observation: Observation) -> Tensor:
        """Features (B, feature_dim) for the critics, of (B, *observation_shape)."""
        return see(self.encoder, observation, self.bf16)

    def policy(self, observation: Observation, feature: Tensor | None = None) -> Tensor:
        """Actions (B, A) in [-1, 1]; `feature` spares a shared encoder, and nothing teaches it."""
        return torch.tanh(self.preactivation(observation, feature))

    def preactivation(self, observation: Observation, feature: Tensor | None = None) -> Tensor:
        """(B, A), whose tanh is the policy's action."""
        if self.eye is not None:
            feature = see(self.eye, observation, self.bf16)
        elif feature is None:
            feature = self.see(observation)
        found: Tensor = self.actor(feature)
        return found

    def q(self, feature: Tensor, action: Tensor) -> Tensor:
        """Values (K, B) of the K critics."""
        return torch.stack([critic(feature, action).squeeze(1) for critic in self.critics])

    def forward(self, observation: Observation) -> Tensor:
        """(B, *observation_shape) -> actions (B, A) in [-1, 1]."""
        return self.policy(observation)


class Policy(nn.Module):
    """An ActorCritic's policy alone, with the encoder that it sees by, before tanh bounds it."""

    def __init__(self, whole: ActorCritic) -> None:
        super().__init__()
        self.encoder: Eyes = whole.eye or whole.encoder
        self.actor = whole.actor
        self.bf16 = whole.bf16

    def forward(self, observation: Observation) -> Tensor:
        """(B, *observation_shape) -> (B, A), whose tanh is the action."""
        return self.actor(see(self.encoder, observation, self.bf16))

    def arithmetic(self) -> AbstractContextManager[Any]:
        """A context in which the encoder computes as it is to."""
        return arithmetic(self.encoder, self.bf16)


@torch.inference_mode()
def policy(network: ActorCritic, observation: Observation) -> Tensor:
    """Actions (B, A) in [-1, 1] for (B, *observation_shape)."""
    return network.policy(observation)


# ----------------------------------------------------------------------------------------- agent


class DDPG:
    """The agent: acts on stacked observations, learns from batches, knows nothing else.

    observation_shape  of the stacked observation: (stack * C, H, W), or (D,)
    action_size        actions are (A,) within [-1, 1]
    seed               of the initial weights, the exploration and the noise
    pretrained         read `encoder_weights`, where the config names any; `report` tells of them
    graphs             on CUDA, capture acting and learning; see `agents.dqn.DQN`
    """

    def __init__(
        self,
        config: DDPGConfig,
        observation_shape: Shape,
        action_size: int,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        pretrained: bool = True,
        graphs: bool = True,
    ) -> None:
        check(config)
        of = observation_shape
        shapes = list(of.values()) if isinstance(of, dict) else [of]
        if config.random_shift and all(len(shape) != 3 for shape in shapes):
            raise ValueError(
                f"random_shift is {config.random_shift}; it moves images, and observations are "
                f"vectors of {observation_shape}: show pictures by --pixels, or set it to 0"
            )
        self.config, self.action_size = config, action_size
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bf16 = computes_bf16(config.precision, self.device)
            online = ActorCritic(config, observation_shape, action_size, bf16, pretrained)
        self.report = online.report
        self.online = online.to(self.device).eval()
        self.target = settle(copy.deepcopy(self.online).requires_grad_(False))
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.explorer = np.random.Generator(np.random.PCG64(seed))
        self.exploration = Exploration(config)
        self.critic_parts = nn.ModuleDict({"eye": online.encoder, "heads": online.critics})
        self.actor_parts = nn.ModuleDict({"head": online.actor})
        if online.eye is not None:
            self.actor_parts["eye"] = online.eye
        self.critic_optimizer = Adam(
            learnable(config, online.encoder, self.critic_parts),
            config.critic_learning_rate,
            weight_decay=config.critic_l2,
        )
        self.actor_optimizer = Adam(
            list(self.actor_parts.parameters())
            if online.eye is None
            else learnable(config, online.eye, self.actor_parts),
            config.actor_learning_rate,
        )
        # once, for walking through modules takes longer than some of the arithmetic
        self._critic_weights = list(self.critic_parts.parameters())
        self._training_critics = Training(self.critic_parts)
        self._training_actor = Training(self.actor_parts)
        self._follow = Polyak(self.target, online)
        self._shown_actor_loss = torch.zeros((), device=self.device)
        self.draws, self.graphs = bool(config.target_noise or config.random_shift), graphs
        self._policy = Forward(partial(policy, self.online), graphs)
        self.updates = 0
        self.beta = config.priority_beta

    @staticmethod
    def on(env: str, *, preset: str | None = None, **options: Any) -> Session:
        """A run on an environment, by name: `DDPG.on("Pendulum-v1").learn(20_000)`.

        Options are the command line's, by field name; see `agents.session.Session`.
        """
        from agents.start import create

        return create("ddpg", preset, {"env": env, **options})

    def anneal(self, step: int, steps: int) -> dict[str, float]:
        """Set exploration and importance correction for agent step `step` of `steps`."""
        start = self.config.priority_beta
        self.beta = start + min(1.0, step / steps) * (1 - start)
        self.exploration.anneal(step)
        return {"noise": self.exploration.sigma, "beta": self.beta}

    def act(
        self,
        observation: Observation,
        *,
        explore: bool = True,
        epsilon: float = 0.0,
        explorer: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Actions (B, A) float32 in [-1, 1] for observations (B, *observation_shape).

        With `explore` False there is no noise, and `epsilon` is the share of uniformly random
        actions, which `explorer` draws where it is given, so that an evaluation leaves training's
        random numbers alone. Networks are in eval mode here, always.
        """
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon is {epsilon}; it must lie in [0, 1]")
        draw = explorer or self.explorer
        shape = count(observation), self.action_size
        if explore:
            random, takes = self.exploration.random(shape, draw)
            if takes.all():
                return random.astype(np.float32)
        action = self._policy(move(observation, self.device)).cpu().numpy()
        if explore:
            action = np.where(takes, random, self.exploration.noisy(action, draw))
        elif epsilon:
            takes = draw.random((shape[0], 1)) < epsilon
            action = np.where(takes, draw.uniform(-1, 1, shape), action)
        return np.asarray(action, np.float32)

    @torch.inference_mode()
    def values(self, observation: Observation) -> Tensor:
        """Values (B, 1) float32 of the policy's own actions: the least of the critics'."""
        observation = move(observation, self.device)
        feature = self.online.see(observation)
        action = self.online.policy(observation, feature)
        return self.online.q(feature, action).amin(0)[:, None]

    @torch.inference_mode()
    def encode(self, observation: Observation) -> dict[str, Tensor]:
        """Features (B, F) of each image, which every method takes in the image's place."""
        with arithmetic(self.online.encoder, self.online.bf16):
            return features(self.online.encoder, move(observation, self.device))

    def explained(self, action: Tensor) -> tuple[nn.Module, Eyes, Callable[[Tensor], Tensor]]:
        """What an explanation of `action` (B, A) is of: the policy, its encoder, and how far (B, 1)
        what the policy gives leans to that action, before tanh flattens it."""

        def lean(out: Tensor) -> Tensor:
            return (out * action.sign()).sum(1, keepdim=True)

        policy = Policy(self.online)
        return policy, policy.encoder, lean

    @property
    def course(self) -> int:
        """1 where the next update is one of actor and targets, too; see `agents.agent.Agent`."""
        return int((self.updates + 1) % self.config.policy_every == 0)

    def update(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """One optimiser step; returns metrics and each sample's error (B,), both detached.

        The importance weight multiplies the loss, not the error (Schaul et al. 2016, section 3.4).
        """
        observation = self._shifted(batch.observation)
        following = self._shifted(batch.next_observation)
        target = self._target(following, batch, self._smoothing(batch.action))

        with self._training_critics:
            loss, error, q, feature = self._critic_loss(observation, batch, target)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()

        if self.course:
            self._update_actor(observation, feature)
            self._follow(self.config.tau)
        self.updates += 1
        return {"loss": loss.detach(), "q": q, "actor_loss": self._shown_actor_loss}, error

    def compile(self) -> None:
        """Have torch compile what an update computes, from the next one on."""
        for name in ("_target", "_critic_loss", "_actor_loss"):
            setattr(self, name, torch.compile(getattr(self, name)))

    def _shifted(self, observation: Any) -> Any:
        """The observation with its images moved at random, where the config says so."""
        pixels = self.config.random_shift
        if not pixels:
            return observation
        if isinstance(observation, dict):
            return {name: self._shifted(part) for name, part in observation.items()}
        is_image = observation.ndim == 4
        return random_shift(observation, pixels, self.generator) if is_image else observation

    def _smoothing(self, action: Tensor) -> Tensor | None:
        """The noise of the target policy's actions, (B, A) like `action`."""
        if not self.config.target_noise:
            return None
        noise = torch.randn(action.shape, generator=self.generator, device=self.device)
        return self.config.target_noise * noise

    def _critic_loss(
        self, observation: Any, batch: Batch, target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The critics' loss, and without gradients each sample's error (B,), their mean value, and
        the features (B, F) that they saw."""
        feature = self.online.see(observation)
        q = self.online.q(feature, batch.action)
        error = target - q
        loss = (batch.weight * critic_loss(error)).mean()
        return loss, error.detach().abs().mean(0), q.detach().mean(), feature.detach()

    def _update_actor(self, observation: Any, feature: Tensor) -> None:
        """One step of the actor up the first critic's slope; `feature` is the shared encoder's."""
        learning = [weight for weight in self._critic_weights if weight.requires_grad]
        for weight in learning:
            weight.requires_grad_(False)
        with self._training_actor:
            loss = self._actor_loss(observation, feature)
        self.actor_optimizer.zero_grad()
        loss.backward()
        self.actor_optimizer.step()
        for weight in learning:
            weight.requires_grad_(True)
        self._shown_actor_loss.copy_(loss.detach())

    def _actor_loss(self, observation: Any, feature: Tensor) -> Tensor:
        """The actor's loss: Lillicrap et al. 2015, equation 6; by the first of two critics as in
        Fujimoto et al. 2018."""
        before = self.online.preactivation(observation, feature)
        loss = -self.online.critics[0](feature, torch.tanh(before)).mean()
        if self.config.preactivation_l2:
            loss = loss + self.config.preactivation_l2 * before.square().sum(1).mean()
        return loss

    @torch.no_grad()
    def _target(self, following: Any, batch: Batch, noise: Tensor | None) -> Tensor:
        """What the critics' values should be (B,)."""
        feature = self.target.see(following)
        action = self.target.policy(following, feature)
        if noise is not None:
            action = smooth(action, noise, self.config.target_noise_clip)
        return td_target(batch.reward, batch.discount, self.target.q(feature, action))

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning and acting depend on: tensors, numbers and strings in dicts."""
        return {
            "online": self.online.state_dict(),
            "target": self.target.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "explorer": self.explorer.bit_generator.state,
            **self.exploration.state_dict(),
            "actor_loss": self._shown_actor_loss.clone(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a `state_dict` of the same configuration; RuntimeError where shapes differ."""
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["target"])
        take_up(self.actor_optimizer, state["actor_optimizer"])
        take_up(self.critic_optimizer, state["critic_optimizer"])
        take_up_generator(self.generator, state["generator"])
        self.explorer.bit_generator.state = state["explorer"]
        self.exploration.load_state_dict(state)
        self._shown_actor_loss.copy_(state["actor_loss"])
        self.updates = state["updates"]
