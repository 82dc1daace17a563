"""What a trained agent looks at: Grad-CAM over its play, and whether to believe it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents import config
from agents.dqn import QNetwork
from agents.evaluate import Film, evaluation_epsilon, new_video, opened, summary
from agents.loop import Agent, rollout
from agents.noisy import silence
from agents.player import load_agent
from envs import make
from envs.vector import Episode
from vision import grad_cam, guided_backprop, randomisation_test
from vision.sanity import Similarity

HEIGHT = 420
"""Least height of a picture, in pixels; small ones are enlarged by a whole factor."""
PANEL = 0.75
"""Width of the panel of action values, in heights of the picture."""
_INK, _PAPER, _BAR, _CHOSEN = (230, 230, 230), 24, (90, 110, 130), (240, 170, 60)


def look(agent: Agent, observation: Tensor, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where an agent looks for the value of each `action` (B,), and all its values.

    observation  (B, C, H, W) images
    Returns maps (B, H, W) float32 in [0, 1], each scaled by its greatest value, and values (B, A).
    Grad-CAM on the encoder's last map (Selvaraju et al. 2017, equations 1 and 2).
    """
    network, x = _network(agent), observation.to(agent.device)
    target = _value_of(network, torch.as_tensor(action, device=agent.device))
    cam = grad_cam(network, network.encoder.head, x, target, at="input", upsample=True)
    cam = cam / cam.amax((1, 2), keepdim=True).clamp_min(torch.finfo(cam.dtype).tiny)
    return cam.cpu().numpy(), agent.values(x).cpu().numpy()


def still(
    picture: np.ndarray, cam: np.ndarray, values: np.ndarray, chosen: int, names: Sequence[str]
) -> np.ndarray:
    """A picture (H, W, 3) uint8 with the map (h, w) over it and the action values beside it."""
    import cv2

    factor = max(1, -(-HEIGHT // picture.shape[0]))
    big = picture.repeat(factor, 0).repeat(factor, 1)
    height, width = big.shape[:2]
    heat = cv2.resize(cam, (width, height), interpolation=cv2.INTER_LINEAR).clip(0, 1)
    colour = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_JET)[:, :, ::-1]
    share = 0.6 * heat[:, :, None]
    seen = (big * (1 - share) + colour * share).round().astype(np.uint8)

    panel = np.full((height, int(PANEL * height), 3), _PAPER, np.uint8)
    row = height / len(values)
    scale = min(row / 40, 1.0)  # of the letters
    low, high = float(values.min()), float(values.max())
    for index, value in enumerate(values):
        top = int(index * row)
        length = int((panel.shape[1] - 16) * (value - low) / max(high - low, 1e-9))
        colour_of = _CHOSEN if index == chosen else _BAR
        bar = (8, int(top + 0.55 * row)), (8 + length, int(top + 0.85 * row))
        cv2.rectangle(panel, *bar, colour_of, cv2.FILLED)
        text, at = f"{names[index]}  {value:.2f}", (8, int(top + 0.45 * row))
        cv2.putText(panel, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * scale, _INK, 1, cv2.LINE_AA)
    return np.concatenate([seen, panel], 1)


def newest(observation: Tensor, stack: int) -> np.ndarray:
    """The newest frame of one stacked image (stack * C, H, W), as (H, W, 3) uint8."""
    frame = observation[-(len(observation) // stack) :].cpu()
    pixels = frame.numpy() if frame.dtype == torch.uint8 else (255 * frame.float()).numpy()
    pixels = pixels.round().clip(0, 255).astype(np.uint8)
    if len(pixels) != 3:  # grey, or channels that are no colours
        pixels = pixels.mean(0, keepdims=True).round().astype(np.uint8).repeat(3, 0)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def explain(
    folder: Path,
    video: Path | None = None,
    episodes: int = 1,
    seed: int = 0,
    *,
    device: str = "auto",
    threads: int | None = None,
    tell: Callable[[Sequence[Episode]], None] | None = None,
) -> dict[str, Any]:
    """Film whole episodes with what the agent looks at; returns their summary and the film's path.

    Each picture is one that the agent acted on: the console's own in Atari, elsewhere the newest
    frame of the observation. Over it lies Grad-CAM of the value of the action taken, beside it
    stand all action values. `threads` and `tell` are those of `evaluate_run`. Raises ValueError
    where the agent sees no images.
    """
    chosen = opened(folder, threads)
    atari = _is_atari(chosen)
    env = make(chosen.env, seed=seed, num_envs=1, evaluation=True, render=atari)
    try:
        _require_images(env.frame_space.shape, chosen.env.env)
        agent = load_agent(folder, chosen, env, device)
        share = evaluation_epsilon(env)
        path = video or new_video(folder)
        played: list[Episode] = []
        before: np.ndarray | None = None
        with Film(path, env.frame_rate, least_height=1) as film:
            for observation, action, _, ended in rollout(agent, env, share, seed):
                if not atari:
                    before = newest(observation[0], env.stack)
                if before is not None:  # the first picture of a console comes after a step
                    cam, values = look(agent, observation, action)
                    film.add(still(before, cam[0], values[0], int(action[0]), env.action_names))
                before = env.render() if atari else None
                played += ended
                if ended and tell is not None:
                    tell(played)
                if len(played) >= episodes:
                    break
        return {"env": chosen.env.env, "video": str(path), **summary(played, env, share)}
    finally:
        env.close()


def sanity(
    folder: Path,
    samples: int = 16,
    seed: int = 0,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> dict[str, list[Similarity]]:
    """Whether Grad-CAM and guided backpropagation depend on what this agent learned.

    Explanations of `samples` observations, spread over its play, are compared with those of the
    same network whose layers were made random one after the other, from the output down (Adebayo et
    al. 2018, section 3.1): what stays alike doesn't show what was learned.
    """
    chosen = opened(folder, threads)
    env = make(chosen.env, seed=seed, num_envs=1, evaluation=True)
    try:
        _require_images(env.frame_space.shape, chosen.env.env)
        agent = load_agent(folder, chosen, env, device)
        seen = []
        for turn, (observation, *_) in enumerate(rollout(agent, env, 0.1, seed)):
            if turn % 10 == 9:
                seen.append(observation)
            if len(seen) == samples:
                break
    finally:
        env.close()
    network = _network(agent)
    images = torch.cat(seen).to(agent.device)
    best = agent.values(images).argmax(1)
    methods: dict[str, Callable[[QNetwork], Tensor]] = {
        "Grad-CAM": lambda net: grad_cam(
            net, net.encoder.head, images, _value_of(net, best), at="input"
        ),
        "guided backpropagation": lambda net: guided_backprop(net, images, _value_of(net, best)),
    }
    return {
        name: randomisation_test(network, method, seed=seed) for name, method in methods.items()
    }


def _value_of(network: QNetwork, action: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda out: network.q(out).gather(1, action[:, None])


def _network(agent: Agent) -> QNetwork:
    """The agent's network, without its noise."""
    network: nn.Module | None = getattr(agent, "online", None)
    assert isinstance(network, QNetwork)
    silence(network)
    return network


def _is_atari(chosen: config.TrainConfig) -> bool:
    from envs.make import resolve

    return resolve(chosen.env.env).kind == "atari"


def _require_images(shape: tuple[int, ...], env: str) -> None:
    if len(shape) != 3:
        raise ValueError(f"explain needs an agent that sees images; {env!r} shows vectors {shape}")
