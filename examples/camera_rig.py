"""Training through a camera: catching balls that a simulator drops before it.

The rig is a simulator behind a network camera; put your own camera and motors in its place.

    agents camera-sim --env examples.custom_env:Catch --port 8090 --rate 30 &
    agents train dqn --env examples.camera_rig:CatchRig --steps 20_000 --learning-starts 1_000 \
        --replay-capacity 20_000 --epsilon-steps 8_000 --update-every 1 --no-distributional

RIG_CAMERA and RIG_SINK in the environment name another camera and sink than port 8090's.

The reward comes from the picture alone, as it must on a rig of one's own.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from envs.camera import CameraEnv, View

CAMERA = os.environ.get("RIG_CAMERA", "http://127.0.0.1:8090/stream.mjpg")
SINK = os.environ.get("RIG_SINK", "tcp://127.0.0.1:8091")


def caught(picture: np.ndarray, action: Any) -> float:
    """1 while the ball, in the row above the paddle's, is over the paddle; -1 where it is not.

    picture  (48, 48, 3) uint8, as the view makes it: 4 pixels a cell, yellow ball, blue paddle
    """
    cells = picture[2::4, 2::4].astype(int)
    ball = (cells[-2, :, 0] > 150) & (cells[-2, :, 2] < 120)
    paddle = (cells[-1, :, 2] > 150) & (cells[-1, :, 0] < 150)
    if not ball.any():
        return 0.0
    return 1.0 if (ball & paddle).any() else -1.0


class CatchRig(CameraEnv):
    """Catch (examples/custom_env.py) as a rig: seen by a camera, moved over the network."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(
            CAMERA,
            SINK,
            actions=3,
            view=View(resize=(48, 48)),
            reward=caught,
            rate=30,
            max_steps=110,
            safe_action=1,  # stay
            render_mode=render_mode,
        )
