"""The command line: its help, its exit codes, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agents import cli, config
from agents.errors import StorageError
from configs.ddpg import DDPGConfig
from configs.dqn import DQNConfig
from configs.loader import docs
from configs.run import RunConfig
from envs.config import EnvConfig


class Recorder:
    """Stands for the training session and for evaluation: notes its calls, raises at will."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.calls: list[tuple[Any, ...]] = []
        self.fault: BaseException | None = None
        self.closed = False

    def create(self, algorithm: str, preset: str | None, overrides: Mapping[str, Any]) -> Recorder:
        self.calls.append(("create", algorithm, preset, dict(overrides)))
        return self

    def resume(self, folder: Path, steps: int | None, **where: Any) -> Recorder:
        self.calls.append(("resume", folder, steps))
        self.where = where
        return self

    def run(self) -> None:
        if self.fault is not None:
            raise self.fault

    def close(self) -> None:
        self.closed = True

    def evaluate_run(
        self, folder: Path, episodes: int, epsilon: float | None, seed: int, **where: Any
    ) -> dict[str, Any]:
        self.calls.append(("eval", folder, episodes, epsilon, seed))
        self.where = where
        self.run()
        return {"mean": 12.5, "scores": [12.0, 13.0], "text": "score 12.5, protocol nature"}

    def play(
        self, folder: Path, video: Path | None, episodes: int, seed: int, **where: Any
    ) -> dict[str, Any]:
        self.where = where
        self.calls.append(("play", folder, video, episodes, seed))
        return {"text": "score 3", "video": str(video)}


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    config.resolve("dqn", "default", {}, image=True).save(run_dir)
    recorder = Recorder(run_dir)
    start, evaluate = ModuleType("agents.start"), ModuleType("agents.evaluate")
    vars(start).update(create=recorder.create, resume=recorder.resume)
    vars(evaluate).update(evaluate_run=recorder.evaluate_run, play=recorder.play)
    monkeypatch.setitem(sys.modules, "agents.start", start)
    monkeypatch.setitem(sys.modules, "agents.evaluate", evaluate)
    return recorder


Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a command line: its exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_only_given_options_override(recorder: Recorder, tell: Told) -> None:
    words = "train dqn --env Pong --num-envs 4 --no-dueling --noisy --learning-rate=1e-3"
    assert tell(*words.split(), "--steps", "1e6", "--device", "cpu", "--v-min", "-5")[0] == 0
    overrides = {
        "env": "Pong",
        "num_envs": 4,
        "dueling": False,
        "noisy": True,
        "learning_rate": 0.001,
        "steps": 1_000_000,
        "device": "cpu",
        "v_min": -5.0,
    }
    assert recorder.calls == [("create", "dqn", None, overrides)]
    assert recorder.closed


def test_an_option_at_its_default_is_still_given(recorder: Recorder, tell: Told) -> None:
    hidden = DQNConfig().hidden
    tell("train", "dqn", "--preset", "classic", "--hidden", str(hidden))
    assert recorder.calls == [("create", "dqn", "classic", {"hidden": hidden})]


def test_resume(recorder: Recorder, tell: Told) -> None:
    assert tell("train", "--resume", str(recorder.run_dir))[0] == 0
    assert tell("train", "--resume", str(recorder.run_dir), "--steps", "3_000_000")[0] == 0
    folder = recorder.run_dir
    assert recorder.calls == [("resume", folder, None), ("resume", folder, 3_000_000)]
    assert recorder.where == {"device": None, "threads": None, "compile": None, "graphs": None}
    assert tell("train", "--resume", str(folder), "--device", "cpu", "--threads", "2")[0] == 0
    assert recorder.where == {"device": "cpu", "threads": 2, "compile": None, "graphs": None}
    for option in ("compile", "no-compile", "graphs", "no-graphs"):
        assert tell("train", "--resume", str(folder), f"--{option}")[0] == 0
        assert recorder.where[option.removeprefix("no-")] is not option.startswith("no-")


def test_eval(recorder: Recorder, tell: Told) -> None:
    folder = recorder.run_dir
    assert tell("eval", str(folder))[:2] == (0, "score 12.5, protocol nature\n")
    assert (recorder.where["device"], recorder.where["threads"]) == ("auto", None)
    words = ["--episodes", "7", "--epsilon", "0.01", "--seed", "3", "--json"]
    words += ["--device", "cpu", "--threads", "1"]
    code, out, _ = tell("eval", str(folder), *words)
    assert code == 0 and json.loads(out)["scores"] == [12.0, 13.0]
    assert recorder.calls == [("eval", folder, 30, None, 0), ("eval", folder, 7, 0.01, 3)]
    assert (recorder.where["device"], recorder.where["threads"]) == ("cpu", 1)
    assert recorder.where["best"] is False
    assert tell("eval", str(folder), "--device", "gpu")[0] == 2


def test_play(recorder: Recorder, tell: Told, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    code, out, _ = tell("play", str(recorder.run_dir), "--video", str(film))
    assert code == 0 and f"video: {film}" in out
    assert recorder.calls == [("play", recorder.run_dir, film, 1, 0)]
    for command in ("play", "eval"):
        assert tell(command, str(recorder.run_dir), "--best")[0] == 0
        assert recorder.where["best"] is True


def test_public_names_are_shown() -> None:
    import agents
    import vision

    assert {"DQN", "load", "resume", "Session", "__version__"} <= set(dir(agents))
    assert {"build_encoder", "grad_cam"} <= set(dir(vision))
    assert agents.__version__.count(".") == 2


def test_list_presets(tell: Told) -> None:
    code, out, _ = tell("list", "presets")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["dqn", "default"],
        ["dqn", "classic"],
        ["dqn", "dqn2013"],
        ["dqn", "nature"],
        ["dqn", "rainbow"],
        ["ddpg", "default"],
        ["ddpg", "paper-pixels"],
        ["ddpg", "paper-state"],
        ["ddpg", "pixels"],
        ["ddpg", "sparse"],
    ]


def test_list_envs_and_encoders(tell: Told) -> None:
    code, out, _ = tell("list", "envs")
    assert code == 0 and ["atari", "breakout"] in [line.split() for line in out.splitlines()]
    assert ["gymnasium", "CartPole-v1"] in [line.split() for line in out.splitlines()]
    code, out, _ = tell("list", "encoders")
    told = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0 and {"nature", "dqn2013", "mlp"} <= set(told)
    assert told["vgg16_bn"].endswith("table 1: configuration D with BatchNorm.")
    assert told["plain56"].endswith(
        "56 layers without shortcuts, for images of 32x32 (section 4.2)."
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("trian dqn", "unknown command 'trian'; did you mean 'train'?"),
        ("train dqm", "unknown algorithm 'dqm'; did you mean 'dqn'?"),
        ("train", "name an algorithm first, such as: agents train dqn --env Breakout"),
        ("train --resum x", "unknown option '--resum'; did you mean '--resume'?"),
        ("train --env Pong", "name an algorithm first, such as: agents train dqn --env Breakout"),
        (
            "train dqn --learning-rat 1",
            "unknown option '--learning-rat'; did you mean '--learning-rate'?",
        ),
        ("train dqn --qqq", "unknown option '--qqq'; see agents train dqn --help"),
        ("train dqn --lr 1", "unknown option '--lr'; did you mean '--learning-rate'?"),
        (
            "train ddpg --lr 1",
            "unknown option '--lr'; did you mean '--actor-learning-rate' or "
            "'--critic-learning-rate'?",
        ),
        (
            "train ddpg --buffer-size 1",
            "unknown option '--buffer-size'; did you mean '--replay-capacity'?",
        ),
        ("train dqn --steps", "--steps needs a value"),
        ("train dqn --steps ten", "--steps is 'ten'; it must be a whole number"),
        ("train dqn --steps 1.5", "--steps is 1.5; it must be a whole number"),
        ("train dqn --gamma nan", "--gamma is nan; it must be finite"),
        ("train dqn --device tpu", "--device is 'tpu'; it must be auto, cpu or cuda"),
        ("train dqn --preset natur", "unknown preset of dqn 'natur'; did you mean 'nature'?"),
        ("train dqn --preset nature --gamma 2", "gamma is 2.0; it must lie in [0, 1]"),
        ("train dqn Pong", "unexpected argument 'Pong'; see agents train dqn --help"),
        ("train dqn --resume x", "--resume takes no algorithm: agents train --resume DIR"),
        ("train --resume", "--resume needs a value"),
        (
            "train --resume x --encoder-width 1",
            "--encoder-width is of a new run: one that goes on keeps what it began with, but for "
            "--steps, --device, --threads, --compile and --graphs",
        ),
        (
            "train --resume x --no-dueling",
            "--no-dueling is of a new run: one that goes on keeps what it began with, but for "
            "--steps, --device, --threads, --compile and --graphs",
        ),
        ("train --resume nowhere", "no run folder at nowhere"),
        (
            "train --resume . --seed 3",
            "--seed is of a new run: one that goes on keeps what it began with, but for "
            "--steps, --device, --threads, --compile and --graphs",
        ),
        ("train --resume . --sead 3", "unknown option '--sead'; see agents train --help"),
        ("eval", "DIR is missing; see agents eval --help"),
        ("eval nowhere", "no run folder at nowhere"),
        ("eval .", ". is not a run folder: it holds no config.yaml"),
        ("eval RUN --episodes 0", "--episodes is 0; it must be at least 1"),
        ("eval RUN --epsilon 2", "--epsilon is 2.0; it must lie in [0, 1]"),
        ("eval RUN --jsn", "unknown option '--jsn'; did you mean '--json'?"),
        ("play RUN --video film.avi", "--video is 'film.avi'; its name must end in .mp4"),
        ("play RUN --video no/film.mp4", "--video is 'no/film.mp4'; there is no folder 'no'"),
        ("run RUN", "--camera is missing, such as: agents run DIR --camera 0"),
        ("run nowhere --camera 0", "no run folder at nowhere"),
        ("run RUN --camera 0 --rate -3", "rate is -3; it must lie in [0, 1000] actions a second"),
        ("run RUN --camera 0 --sinc x", "unknown option '--sinc'; did you mean '--sink'?"),
        ("camera-sim", "--env is missing, such as: agents camera-sim --env Breakout"),
        ("camera-sim --env Pong --port 70000", "--port is 70000; it must lie in [0, 65535]"),
        ("list", "WHAT is missing; see agents list --help"),
        ("list preset", "unknown list 'preset'; did you mean 'presets'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    recorder: Recorder,
    tell: Told,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: str,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    told = tell(*words.replace("RUN", str(recorder.run_dir)).split())
    assert told == (2, "", f"agents: {line}\n")
    assert recorder.calls == []


def test_what_a_room_refuses_is_bad_input(
    recorder: Recorder, tell: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(*_: object) -> None:
        config.resolve("dqn", None, {"gamma": 3.0}, image=True)

    monkeypatch.setattr(sys.modules["agents.start"], "create", create)
    told = tell("train", "dqn")
    assert told == (2, "", "agents: gamma is 3.0; it must lie in [0, 1]\n")


def test_what_a_library_raises_keeps_its_traceback(
    recorder: Recorder, tell: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def create(*_: object) -> None:
        json.loads("{")  # a ValueError from outside our rooms

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(sys.modules["agents.start"], "create", create)
    code, _, err = tell("train", "dqn")
    assert code == 1 and len(err.splitlines()) == 1
    (path,) = tmp_path.glob("traceback-*.txt")
    assert f"(traceback: {path})" in err
    assert "JSONDecodeError" in path.read_text()


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (StorageError("no space left\nfor a checkpoint"), "no space left for a checkpoint"),
        (KeyError("lane"), "KeyError: 'lane'"),
        (ValueError("wrong"), "wrong"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (MemoryError(), "out of memory"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied"),
        (OSError(28, "No space left on device"), "{run_dir}: No space left on device"),
    ],
)
def test_a_fault_in_mid_run_is_one_line_and_a_traceback_in_the_run_folder(
    recorder: Recorder, tell: Told, fault: Exception, text: str
) -> None:
    recorder.fault = fault
    code, out, err = tell("train", "dqn")
    (path,) = recorder.run_dir.glob("traceback-*.txt")
    text = text.format(run_dir=recorder.run_dir)
    assert (code, out, err) == (1, "", f"agents: {text} (traceback: {path})\n")
    assert type(fault).__name__ in path.read_text()
    assert recorder.closed


def test_traceback_shows_it_all(recorder: Recorder, tell: Told) -> None:
    recorder.fault = KeyError("lane")
    with pytest.raises(KeyError, match="lane"):
        tell("train", "dqn", "--traceback")
    with pytest.raises(ValueError, match="unknown command"):
        tell("--traceback", "trian")


def test_ctrl_c(recorder: Recorder, tell: Told) -> None:
    recorder.fault = KeyboardInterrupt()
    assert tell("train", "dqn") == (130, "", "agents: stopped\n")


@pytest.mark.parametrize(("algorithm", "options"), [("dqn", DQNConfig), ("ddpg", DDPGConfig)])
def test_help_of_an_algorithm_explains_every_option(
    tell: Told, algorithm: str, options: type
) -> None:
    code, out, _ = tell("train", algorithm, "--help")
    assert code == 0
    text = " ".join(out.split())
    for kind in (RunConfig, EnvConfig, options):
        for name, meaning in docs(kind).items():
            assert f"--{name.replace('_', '-')}" in out
            assert meaning in text


def test_help_tells_the_preset_that_the_environment_may_choose(tell: Told) -> None:
    for algorithm, what in (("dqn", "vectors takes classic"), ("ddpg", "images takes pixels")):
        out = tell("train", algorithm, "--help")[1]
        assert f"observations are {what}" in " ".join(out.split())
        assert "those of the preset default" in " ".join(out.split())


def test_help_shows_the_defaults_of_the_preset(tell: Told) -> None:
    shown = {p: tell("train", "dqn", "--preset", p, "--help")[1] for p in ("nature", "rainbow")}
    assert "(default: 10000)" in " ".join(shown["nature"].split())
    assert "preset rainbow" in shown["rainbow"]
    assert "--noisy, --no-noisy" in shown["rainbow"]


HELPS = [
    "",
    "--help",
    "train --help",
    "train dqn --help",
    "train ddpg --help",
    "eval --help",
    "play --help",
    "run --help",
    "camera-sim --help",
]

LIGHT = f"""
import sys
from agents.cli import main
for words in {[*HELPS, "list --help", "list presets"]!r}:
    assert main(words.split()) == 0, words
heavy = {{"torch", "numpy", "gymnasium", "numba", "tensorboard", "rich", "ale_py", "cv2", "av"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_help_imports_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, stdout=subprocess.DEVNULL)


def test_as_a_module_and_into_a_closed_pipe() -> None:
    command = [sys.executable, "-m", "agents", "train", "dqn", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # `agents ... | head` that has read enough
    assert process.stderr.read() == b""
    assert process.wait() == 0
    process.stderr.close()


HANGS = """
import time, gymnasium
from gymnasium import spaces

class Env(gymnasium.Env):
    observation_space = spaces.Box(0, 1, (2,))
    action_space = spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}
    def step(self, action):
        print("hangs", flush=True)
        time.sleep(600)
"""


def test_one_interrupt_ends_a_check_whose_environment_hangs(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGS)
    command = [sys.executable, "-m", "agents", "check", "hanging:Env"]
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "hangs" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "stopped" in process.communicate()[1]
