"""What an agent looks at: maps, stills, films, and the check of randomised weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from agents.dqn import DQN
from agents.explain import Painter, coarseness, conclusion, explain, look, newest, sanity, still
from agents.start import create
from configs.dqn import DQNConfig
from envs.actions import actions
from vision import build_encoder
from vision.sanity import Similarity

BASE: dict[str, Any] = {
    "env": "tests.support:TaggedEnv", "steps": 60, "num_envs": 2, "learning_starts": 20,
    "replay_capacity": 200, "eval_episodes": 1, "encoder_width": 0.1, "hidden": 16,
    "encoder": "drq", "precision": "fp32", "log_every": 20,
}  # fmt: skip


def run(folder: Path, **options: Any) -> Path:
    session = create("dqn", "default", {**BASE, "out": str(folder), **options})
    try:
        session.run(console=False)
    finally:
        session.close()
    return session.run_dir


def test_a_map_is_about_the_action_asked_for() -> None:
    """A network whose action 0 reads the left half alone, and action 1 the right."""
    config = DQNConfig(
        encoder="nature", encoder_width=0.25, hidden=32, dueling=False, precision="fp32"
    )
    agent = DQN(config, (1, 84, 84), 2, seed=3)
    network, side = agent.online, 7
    with torch.no_grad():
        weight = network.first.weight.view(32, -1, side, side)
        weight.abs_()
        weight[:16, :, :, side // 2 :] = 0  # units 0 to 15 see the left half of the last map
        weight[16:, :, :, : side // 2 + 1] = 0
        network.advantage.weight.zero_()
        network.advantage.weight[0, :16] = 1
        network.advantage.weight[1, 16:] = 1
    seeded = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 1, 84, 84), dtype=torch.uint8, generator=seeded)
    for action in (0, 1):
        cams, values = look(agent, image, np.full(2, action))
        assert cams.shape == (2, 84, 84) and values.shape == (2, 2)
        assert cams.max() == pytest.approx(1, abs=0.05) and cams.min() >= 0
    # each sample has its own action
    cams, _ = look(agent, image, np.array([0, 1]))
    assert np.allclose(cams[0], look(agent, image, np.array([0, 0]))[0][0], atol=1e-5)
    assert np.allclose(cams[1], look(agent, image, np.array([1, 1]))[0][1], atol=1e-5)
    assert not np.allclose(cams[1], look(agent, image, np.array([0, 0]))[0][1], atol=1e-3)


def test_a_still_is_hot_where_the_map_is_and_marks_the_choice() -> None:
    picture = np.full((60, 50, 3), 100, np.uint8)
    cam = np.zeros((6, 5), np.float32)
    cam[0, 0] = 1
    found = still(picture, cam, np.array([1.0, 3.0]), 1, ("left", "right"))
    assert found.dtype == np.uint8 and found.shape[0] >= 420
    factor = found.shape[0] // 60
    seen = found[:, : 50 * factor]
    assert (seen[-40:, -40:] == 100).all()  # cold: the picture as it is
    red, _, blue = (int(c) for c in seen[5, 5])
    assert red > blue + 50  # hot: red over it
    panel = found[:, 50 * factor :]
    orange = (panel == (240, 170, 60)).all(2)
    assert orange[len(panel) // 2 :].any() and not orange[: len(panel) // 2].any()


def test_bars_are_as_long_as_differences_where_a_span_is_given() -> None:
    picture, cam = np.zeros((60, 50, 3), np.uint8), np.zeros((6, 5), np.float32)

    def length(span: float) -> int:
        found = still(picture, cam, np.array([1.0, 3.0]), 1, ("left", "right"), span)
        return int((found == (240, 170, 60)).all(2).sum(1).max())

    assert length(0) == length(1) == pytest.approx(2 * length(4), abs=10)
    assert length(4) > 50


def test_a_painters_scale_fades_and_its_actions_are_the_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Any, ...]] = []
    beside: list[np.ndarray] = []
    monkeypatch.setattr("agents.explain.still", lambda *drawn: seen.append(drawn[2:]))
    monkeypatch.setattr("agents.explain.look", lambda *_: (np.zeros((1, 2, 2)), beside[-1][None]))
    agent, image, picture = Any, torch.zeros(1), np.zeros((4, 4, 3), np.uint8)

    paint = Painter(agent, actions(gymnasium.spaces.Discrete(2, start=3), "env"), "nature")  # type: ignore[arg-type]
    for values in ((1.0, 5.0), (1.0, 2.0)):
        beside.append(np.array(values))
        paint(image, np.array([1]), picture)
    assert [(chosen, names, span) for _, chosen, names, span in seen] == [
        (1, ("3", "4"), 4), (1, ("3", "4"), pytest.approx(0.98 * 4))
    ]  # fmt: skip

    paint = Painter(agent, actions(gymnasium.spaces.Box(-2, 4, (2,)), "env"), "nature")  # type: ignore[arg-type]
    beside.append(np.array([-1.0, 0.5]))
    paint(image, beside[-1][None], picture)
    own, chosen, names, span = seen[-1]
    assert own.tolist() == [-2, 2.5] and (chosen, span) == (-1, 4.5)
    assert names == ("action 0", "action 1")


def test_the_newest_frame_as_a_picture() -> None:
    grey = torch.arange(4, dtype=torch.uint8).view(4, 1, 1).expand(4, 2, 2)
    assert (newest(grey, 4) == 3).all() and newest(grey, 4).shape == (2, 2, 3)
    colour = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1).expand(3, 2, 2)
    assert newest(colour, 1)[0, 0].tolist() == [0, 128, 255]


def test_a_film_of_what_it_looks_at(tmp_path: Path) -> None:
    import av

    folder = run(tmp_path)
    result = explain(folder, tmp_path / "film.mp4", episodes=2)
    assert len(result["scores"]) == 2 and result["caution"] == ""
    with av.open(str(tmp_path / "film.mp4")) as film:
        pictures = sum(1 for _ in film.decode(video=0))
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.width > stream.height  # the panel stands beside the picture
    # every picture that was acted on, the one before each reset too
    assert pictures == sum(result["lengths"]) + 1
    assert Path(explain(folder)["video"]).parent == folder / "videos"


def test_coarse_maps_are_told() -> None:
    assert coarseness(build_encoder("nature", (4, 84, 84))) == ""
    assert coarseness(build_encoder("resnet18", (3, 224, 224), 0.1)) == ""
    told = coarseness(build_encoder("resnet18", (4, 84, 84), 0.1))
    assert told.startswith("the encoder's last map is about 3x3: what it shows is no finer than 32")


def test_the_check_of_randomised_weights(tmp_path: Path) -> None:
    found = sanity(run(tmp_path), samples=3)
    assert set(found) == {"Grad-CAM", "guided backpropagation"}
    for rows in found.values():
        assert [row.layer for row in rows] == [row.layer for row in found["Grad-CAM"]]
        assert rows[0].layer == "value" and rows[-1].layer.startswith("encoder")


def test_what_the_check_says_in_words() -> None:
    def said(value: float, first: float) -> str:
        ranks = {"value": value, "first": first, "encoder.convs.0": 0.0}
        return conclusion([Similarity(layer, rank) for layer, rank in ranks.items()])

    assert said(0.9, 0.12) == "0.12 is left once the heads are random: it shows what they learned"
    assert said(0.1, 0.8).startswith("0.80 is left with random heads: much of it doesn't show")
    assert said(0.1, float("nan")).startswith("no map to compare")
    few = conclusion([Similarity("value", 0.1, 0.25)])
    assert few == "25% of the observations have a map that isn't constant: too few to tell"


def test_an_encoder_without_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the encoder 'flat' makes no maps of an image, which"):
        Painter(None, actions(gymnasium.spaces.Discrete(2), "env"), "flat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the encoder 'flat' makes no maps of an image, which"):
        run(tmp_path, encoder="flat", explain_every=30)
    assert not any(tmp_path.iterdir())
    folder = run(tmp_path, encoder="flat")
    for command in (explain, sanity):
        with pytest.raises(ValueError, match="the encoder 'flat' makes no maps of an image, which"):
            command(folder)


def test_stills_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(tmp_path, explain_every=30)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    stills = events.Images("grad_cam")
    assert [image.step for image in stills] == [30, 60]
    assert stills[0].encoded_image_string.startswith(b"\x89PNG") and stills[0].height >= 420


def test_vectors_have_nothing_to_look_at(tmp_path: Path) -> None:
    options = {**BASE, "env": "CartPole-v1", "encoder": "mlp", "out": str(tmp_path)}
    with pytest.raises(ValueError, match="explain_every is 10; stills are of agents that see"):
        create("dqn", "classic", {**options, "explain_every": 10})
    assert not any(tmp_path.iterdir())
    session = create("dqn", "classic", options)
    session.run(console=False)
    session.close()
    for command in (explain, sanity):
        with pytest.raises(ValueError, match="explain needs an agent that sees images"):
            command(session.run_dir)
