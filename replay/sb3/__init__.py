"""This replay under stable-baselines3's DQN: prioritized, n-step, with every frame stored once.

    model = PrioritizedDQN("CnnPolicy", env, n_steps=3, replay_buffer_kwargs=dict(frame_stack=4))

stable-baselines3 stays as it is installed; 2.7 is the first whose batches carry discounts.
"""

from __future__ import annotations

try:
    from stable_baselines3.common.type_aliases import ReplayBufferSamples
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] != "stable_baselines3":
        raise
    raise ImportError(
        "replay.sb3 needs stable-baselines3; pip install 'stable-baselines3>=2.7'"
    ) from None
if "discounts" not in ReplayBufferSamples._fields:
    raise ImportError(
        "this stable-baselines3 knows no n-step discounts; pip install 'stable-baselines3>=2.7'"
    )

from replay.sb3.buffer import PrioritizedReplayBuffer, PrioritizedSamples  # noqa: E402
from replay.sb3.dqn import PrioritizedDQN, q_learning_errors  # noqa: E402

__all__ = [
    "PrioritizedDQN",
    "PrioritizedReplayBuffer",
    "PrioritizedSamples",
    "q_learning_errors",
]
