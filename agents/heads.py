"""The fully connected layers of actors and critics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents import fused
from agents.linear import Linear
from configs.ddpg import DDPGConfig
from vision import initialise

ROWS = 16
"""Rows below which rounding the weights takes longer than it saves: acting in few environments."""


class Layers(nn.Module):
    """What actor and critic have in common: trunk, two hidden layers, last layer.

    With `action` units, the action enters the layer that the config names. The first layer
    computes in the type of the features, which for states is float32, for it must tell small
    differences; the second, where most of the work is, in bfloat16 with `bf16`; the last in
    float32.
    """

    def __init__(
        self, config: DDPGConfig, features: int, out: int, action: int = 0, bf16: bool = False
    ) -> None:
        super().__init__()
        self.bf16 = bf16
        first, second = config.hidden, config.hidden_second or config.hidden
        is_actor = action == 0
        self.action_first = config.action_layer == 1
        self.trunk: nn.Module = nn.Identity()
        if config.trunk:
            self.trunk = nn.Sequential(
                Linear(features, config.trunk), nn.LayerNorm(config.trunk), nn.Tanh()
            )
            features = config.trunk
        self.first = Linear(features + action * self.action_first, first)
        self.second = Linear(first + action * (not self.action_first), second)
        self.last = nn.Linear(second, out)
        self.scale: nn.Module = nn.Identity()
        self.norms = nn.ModuleList([nn.Identity(), nn.Identity()])
        if config.layer_norm:
            self.norms = nn.ModuleList([nn.LayerNorm(first), nn.LayerNorm(second)])
        if config.batch_norm:
            self.scale = nn.BatchNorm1d(features)
            before_action = not self.action_first
            self.norms = nn.ModuleList(
                [
                    nn.BatchNorm1d(first) if is_actor or before_action else nn.Identity(),
                    nn.BatchNorm1d(second) if is_actor else nn.Identity(),
                ]
            )
        self.fuses = is_actor or self.action_first
        """Whether `agents.fused` may compute them where it can."""
        self.workspaces = fused.Workspaces()
        initialise(self, config.init)
        if config.final_init:
            nn.init.uniform_(self.last.weight, -config.final_init, config.final_init)
            nn.init.uniform_(self.last.bias, -config.final_init, config.final_init)

    def forward(self, feature: Tensor, action: Tensor | None = None) -> Tensor:
        """(B, features), and for a critic (B, A) actions, -> (B, out) float32."""
        x = self.scale(self.trunk(feature))
        if action is not None and self.action_first:
            x = torch.cat((x.float(), action.float()), 1)
        second = torch.bfloat16 if self.bf16 and len(x) >= ROWS else x.dtype
        found = fused.run(self, x, second)
        if found is not None:
            return found
        x = torch.relu(self.norms[0](self.first(x))).to(second)
        if action is not None and not self.action_first:
            x = torch.cat((x, action.to(x.dtype)), 1)
        x = torch.relu(self.norms[1](self.second(x)))
        out: Tensor = self.last(x.float())
        return out
