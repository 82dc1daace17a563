"""Names: every spelling of an Atari game, Gymnasium ids, classes, and what is none of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from envs.config import EnvConfig
from envs.make import make, names, resolve


@pytest.mark.parametrize(
    ("name", "rom"),
    [
        ("Breakout", "breakout"),
        ("breakout", "breakout"),
        ("BREAKOUT", "breakout"),
        ("space_invaders", "space_invaders"),
        ("SpaceInvaders", "space_invaders"),
        ("space invaders", "space_invaders"),
        ("Qbert", "qbert"),
        ("Q*bert", "qbert"),
        ("Ms. Pac-Man", "ms_pacman"),
        ("Montezuma's Revenge", "montezuma_revenge"),
        ("UpNDown", "up_n_down"),
        ("Up'n Down", "up_n_down"),
        ("H.E.R.O.", "hero"),
        ("ALE/Breakout-v5", "breakout"),
        ("ale/tic_tac_toe_3d", "tic_tac_toe_3d"),
        ("ALE/Pitfall2-v5", "pitfall2"),
        ("BreakoutNoFrameskip-v4", "breakout"),
        ("SpaceInvadersDeterministic-v0", "space_invaders"),
        ("Pong-v4", "pong"),
        ("Blackjack", "blackjack"),
    ],
)
def test_spellings_of_atari(name: str, rom: str) -> None:
    assert resolve(name) == ("atari", rom)


def test_every_listed_name_resolves_to_itself() -> None:
    listed = names()
    assert len([n for n in listed if n.kind == "atari"]) > 100
    assert ("gymnasium", "CartPole-v1") in listed
    for name in listed:
        assert resolve(name.id) == name
        if name.kind == "atari":
            assert resolve(f"ALE/{name.id.title().replace('_', '')}-v5") == name


def test_other_kinds() -> None:
    assert resolve("CartPole-v1") == ("gymnasium", "CartPole-v1")
    assert resolve("Blackjack-v1") == ("gymnasium", "Blackjack-v1")
    assert resolve("tests.support:TaggedEnv") == ("class", "tests.support:TaggedEnv")
    assert resolve("some_package:Name-v0") == ("gymnasium", "some_package:Name-v0")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Breakot", "nearest: Breakout"),
        ("SpaceInvader", "nearest: SpaceInvaders"),
        ("ALE/Seaqest-v5", "Seaquest"),
        ("CartPol", "nearest: CartPole-v1"),
        ("CartPole-v7", "CartPole-v1"),
        ("qqqqqqqq", "expected an Atari game"),
        ("Combat", "two players"),
        ("Breakout-ram-v4", "drop '-ram'"),
        (":Class", "package.module:Class"),
    ],
)
def test_unknown_names_say_what_is_near(name: str, hint: str) -> None:
    with pytest.raises(ValueError) as error:
        resolve(name)
    assert hint in str(error.value)
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "natur"}, "unknown protocol 'natur'; did you mean nature"),
        ({"num_envs": 0}, "num_envs is 0; it must be at least 1"),
        ({"frame_size": 0}, "frame_size is 0"),
        ({"frame_stack": -1}, "frame_stack is -1"),
        ({"env": "no_such_module:Class"}, "no module 'no_such_module'"),
        ({"env": "tests.support:TagedEnv"}, "did you mean TaggedEnv"),
        ({"env": "threading:Event"}, "made a Event, not a gymnasium.Env"),
        ({"env": "tests.support:__doc__"}, "__doc__ is no function or class"),
        ({"env": "tests.support:Tag"}, "asks for env, episode, step, action"),
        ({"env": "nomodule:Name-v0"}, "'nomodule:Name-v0' can't be made"),
        ({"env": "envs.mine:World"}, "'envs' is the name of one of Sightline's packages"),
        ({"env": "tests.support:Broken"}, "'tests.support:Broken' can't be made: KeyError: 'rig'"),
    ],
)
def test_bad_config_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as error:
        make(EnvConfig(**change), seed=0)  # type: ignore[arg-type]
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_class_is_found_in_the_working_folder(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "my_own_world.py").write_text(
        "from tests.support import TaggedEnv\n"
        "class World(TaggedEnv):\n"
        "    def __init__(self):\n"
        "        super().__init__(env=9)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    env = make(EnvConfig(env="my_own_world:World", num_envs=2), seed=0)
    assert env.reset().shape == (2, 1, 16, 20)
    env.close()


@pytest.mark.parametrize("name", ["./rigs/arm.py:Arm", "rigs/arm.py:Arm", "rigs/arm:Arm"])
def test_a_file_is_no_module(name: str) -> None:
    with pytest.raises(ValueError, match=r"names a file; name its module, .*: rigs\.arm:Arm$"):
        make(EnvConfig(env=name), seed=0)


def test_importing_envs_is_light() -> None:
    code = (
        "import sys, envs, envs.config, envs.protocol, envs.make\n"
        "print([m for m in ('torch', 'gymnasium', 'numba', 'numpy', 'ale_py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
