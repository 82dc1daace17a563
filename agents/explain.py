"""What a trained agent looks at: Grad-CAM over its play, and whether to believe it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents import config
from agents.agent import Agent
from agents.evaluate import staged
from agents.film import Film, enlarged, numbered
from agents.loop import observation_field, rollout
from agents.perception import Eyes, features, images
from configs.loader import unknown
from envs.actions import Actions
from replay import Field, Observation
from replay.types import Spec, by_part, move
from vision import OnePart, grad_cam, guided_backprop, randomisation_test
from vision.encoder import Encoder
from vision.joint import require_maps
from vision.sanity import Similarity

PANEL = 0.75
"""Width of the panel of action values, in heights of the picture."""
COARSE = 4
"""Rows or columns of a map up to which one should know that it is coarse."""
FADE = 0.98
"""Of the bars' scale, from picture to picture."""
_INK, _PAPER, _BAR, _CHOSEN = (230, 230, 230), 24, (90, 110, 130), (240, 170, 60)


def look(
    agent: Agent, observation: Observation, action: np.ndarray, camera: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Where an agent looks for each `action`, (B,) or (B, A), and what stands beside it.

    observation  (B, C, H, W) images; of several parts, `camera` is the one to look at
    Returns maps (B, H, W) float32 in [0, 1], each scaled by its greatest value, and (B, A): the
    values of all discrete actions, or the continuous action itself. Grad-CAM on the encoder's last
    map (Selvaraju et al. 2017, equations 1 and 2) of what the agent's `explained` names.
    """
    x = move(observation, agent.device)
    network, encoder, target = agent.explained(torch.as_tensor(action, device=agent.device))
    seeing, image, head = _sight(network, encoder, x, camera)
    cam = grad_cam(seeing, head, image, target, at="input", upsample=True)
    cam = cam / cam.amax((1, 2), keepdim=True).clamp_min(torch.finfo(cam.dtype).tiny)
    beside = agent.values(x).cpu().numpy() if action.ndim == 1 else action
    return cam.cpu().numpy(), beside


class Painter:
    """Draws what an agent looks at, picture after picture, for the action of the first lane.

    Bars have one scale, which fades: the moments of a film can be compared, near ones best.
    Raises ValueError where the encoder named `encoder` has no maps.
    """

    def __init__(self, agent: Agent, actions: Actions, encoder: str, camera: str = "") -> None:
        require_maps(encoder)
        self._agent, self._actions, self._camera = agent, actions, camera
        self._span = 0.0

    def __call__(
        self, observation: Observation, action: np.ndarray, picture: np.ndarray
    ) -> np.ndarray:
        """`picture` (H, W, 3) uint8 with the map over it and the actions' values beside it.

        Of a continuous action that is itself, as the environment takes it.
        """
        cam, beside = look(self._agent, observation, action, self._camera)
        values, names, chosen = beside[0], self._actions.names, -1
        if names:
            chosen = int(action[0])
        else:
            values = np.ravel(self._actions.own(values))
            names = tuple(f"action {i}" for i in range(len(values)))
        self._span = max(FADE * self._span, float(np.ptp(values)))
        return still(picture, cam[0], values, chosen, names, self._span)


def still(
    picture: np.ndarray,
    cam: np.ndarray,
    values: np.ndarray,
    chosen: int,
    names: Sequence[str],
    span: float = 0.0,
) -> np.ndarray:
    """A picture (H, W, 3) uint8 with the map (h, w) over it and the action values beside it.

    chosen  number of the value that stands out; -1 for none
    span    difference from the lowest value that fills the panel, if the greatest here is below it
    """
    import cv2

    height, width = picture.shape[:2]
    heat = cv2.resize(cam, (width, height), interpolation=cv2.INTER_LINEAR).clip(0, 1)
    colour = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_JET)[:, :, ::-1]
    share = 0.6 * heat[:, :, None]
    seen = enlarged((picture * (1 - share) + colour * share).round().astype(np.uint8))
    height = len(seen)

    panel = np.full((height, int(PANEL * height), 3), _PAPER, np.uint8)
    row = height / len(values)
    scale = min(row / 40, 1.0)  # of the letters
    low = float(values.min())
    span = max(span, float(values.max()) - low, 1e-9)
    for index, value in enumerate(values):
        top = int(index * row)
        length = int((panel.shape[1] - 16) * (value - low) / span)
        colour_of = _CHOSEN if index == chosen else _BAR
        bar = (8, int(top + 0.55 * row)), (8 + length, int(top + 0.85 * row))
        cv2.rectangle(panel, *bar, colour_of, cv2.FILLED)
        text, at = f"{names[index]}  {value:.3f}", (8, int(top + 0.45 * row))
        cv2.putText(panel, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * scale, _INK, 1, cv2.LINE_AA)
    return np.concatenate([seen, panel], 1)


def camera_of(spec: Spec, env: str, asked: str | None = None) -> str:
    """The image to explain: the one asked for, or the first by name; '' where nothing has a name.

    Raises ValueError where there is no such image, or none at all.
    """
    fields = by_part(spec)
    cameras = [name for name, field in fields.items() if len(field.shape) == 3]
    if not cameras:
        shapes = ", ".join(str(field.shape) for field in fields.values())
        raise ValueError(f"explain needs an agent that sees images; {env!r} shows vectors {shapes}")
    if asked is None:
        return cameras[0]
    if isinstance(spec, Field):
        raise ValueError(f"camera is {asked!r}; {env!r} shows one image, which has no name")
    if asked not in cameras:
        raise ValueError(unknown(f"camera of {env!r}", asked, cameras))
    return asked


def coarseness(encoder: Encoder) -> str:
    """What to keep in mind of explanations on this encoder's last map; '' where it is fine enough.

    A ResNet's or VGG's has a 32nd of the image's size: 3x3 for 84x84.
    """
    stride = encoder.strides[-1]
    rows, columns = (-(-size // stride) for size in encoder.observation_shape[1:])
    if min(rows, columns) > COARSE:
        return ""
    return (
        f"the encoder's last map is about {rows}x{columns}: what it shows is no finer than "
        f"{stride} pixels of the observation"
    )


def shown(observation: Observation, spec: Spec, camera: str = "") -> np.ndarray:
    """The newest frame of the image to explain, of the first of a batch, as (H, W, 3) uint8."""
    if isinstance(observation, dict):
        assert isinstance(spec, dict)
        observation, spec = observation[camera], spec[camera]
    assert isinstance(spec, Field)
    return newest(observation[0], spec.stack)


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
    camera: str | None = None,
    **where: Any,
) -> dict[str, Any]:
    """Film whole episodes with what the agent looks at; returns their summary.

    With it come the film's path, and a caution where the maps are coarse, else ''.

    camera  the part of the observation to look at, where it has several; None takes the first image
    where   options of `agents.evaluate.staged`

    Each picture is one that the agent acted on: the console's own in Atari, elsewhere the newest
    frame of the observation. Over it lies Grad-CAM of the value of the action taken, beside it
    stand all action values, whose bars tell their differences, to a scale on which the greatest of
    the last seconds fills the panel; of a policy's continuous action, Grad-CAM of its size, and the
    action. Raises ValueError where the agent sees no images.
    """
    atari = _is_atari(folder)
    with staged(folder, seed, render=atari, **where) as stage:
        env, spec = stage.env, observation_field(stage.env)
        camera = camera_of(spec, stage.config.env.env, camera)
        paint = Painter(stage.agent, env.actions, stage.config.agent.encoder, camera)
        path = video or numbered(folder / "videos", ".mp4")
        before: np.ndarray | None = None
        with Film(path, env.frame_rate) as film:
            for observation, action, _, ended in rollout(stage.agent, env, stage.epsilon, seed):
                if not atari:
                    before = shown(observation, spec, camera)
                if before is not None:  # the first picture of a console comes after a step
                    film.add(paint(observation, action, before))
                before = env.render() if atari else None
                stage.add(ended)
                if len(stage.played) >= episodes:
                    break
        _, encoder, _ = stage.agent.explained(torch.as_tensor(action))
        return stage.summary(video=str(path), caution=coarseness(images(encoder)[camera]))


def sanity(
    folder: Path, samples: int = 16, seed: int = 0, camera: str | None = None, **where: Any
) -> dict[str, list[Similarity]]:
    """Whether Grad-CAM and guided backpropagation depend on what this agent learned.

    Explanations of `samples` observations, spread over its play, are compared with those of the
    same network whose layers were made random one after the other, from the output down (Adebayo et
    al. 2018, section 3.1): what stays alike doesn't show what was learned.
    """
    with staged(folder, seed, **where) as stage:
        agent = stage.agent
        camera = camera_of(observation_field(stage.env), stage.config.env.env, camera)
        require_maps(stage.config.agent.encoder)
        seen: list[Observation] = []
        for turn, (observation, *_) in enumerate(rollout(agent, stage.env, 0.1, seed)):
            if turn % 10 == 9:
                seen.append(observation)
            if len(seen) == samples:
                break
    observations = move(_together(seen), agent.device)
    best = agent.act(observations, explore=False, explorer=np.random.default_rng(seed))
    network, _, target = agent.explained(torch.as_tensor(best, device=agent.device))

    def cam(net: Any) -> Tensor:
        seeing, images, head = _sight(net, net.encoder, observations, camera)
        return grad_cam(seeing, head, images, target, at="input")

    def guided(net: Any) -> Tensor:
        seeing, images, _ = _sight(net, net.encoder, observations, camera)
        return guided_backprop(seeing, images, target)

    methods: dict[str, Callable[[Any], Tensor]] = {
        "Grad-CAM": cam,
        "guided backpropagation": guided,
    }
    return {
        name: randomisation_test(network, method, seed=seed) for name, method in methods.items()
    }


def conclusion(rows: Sequence[Similarity]) -> str:
    """What a row of `sanity` says of its explanation, in words.

    Judged where all heads are random and the encoder is as trained: what is still alike there is
    drawn from the picture and not from the values.
    """
    heads = [row for row in rows if not row.layer.startswith("encoder")]
    left, share = heads[-1].rank, heads[-1].share
    if math.isnan(left):
        return "no map to compare: the explanations are constant"
    if share < 0.5:
        return f"{share:.0%} of the observations have a map that isn't constant: too few to tell"
    if left < 0.5:
        return f"{left:.2f} is left once the heads are random: it shows what they learned"
    return f"{left:.2f} is left with random heads: much of it doesn't show what they learned"


def _sight(
    network: Any, encoder: Eyes, observation: Observation, camera: str
) -> tuple[nn.Module, Tensor, nn.Module]:
    """The network as a function of one image, that image (B, C, H, W), and its encoder's head."""
    head = images(encoder)[camera].head
    if not isinstance(observation, dict):
        return network, observation, head
    # features for the other images: an encoder that is shared then runs for this one alone
    with torch.no_grad(), network.arithmetic():
        others = features(encoder, observation)
    held = observation | {name: value for name, value in others.items() if name != camera}
    return OnePart(network, held, camera), observation[camera], head


def _together(batches: list[Observation]) -> Observation:
    first = batches[0]
    if isinstance(first, dict):
        return {part: torch.cat([b[part] for b in batches]) for part in first}  # type: ignore[index]
    return torch.cat(batches)  # type: ignore[arg-type]


def _is_atari(folder: Path) -> bool:
    from envs.make import resolve

    return resolve(config.load(folder).env.env).kind == "atari"
