"""The strict way from YAML and dictionaries to frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

import configs.ddpg
import configs.dqn
import configs.run
from configs import loader
from envs.config import EnvConfig


@dataclass(frozen=True)
class Engine:
    """One half of the options."""

    rate: float = 1e-3
    """Step size,
    per update."""
    layers: int = 2
    """Number of layers."""
    kind: Literal["adam", "rmsprop"] = "adam"
    """Which one."""


@dataclass(frozen=True)
class Room:
    """The other half."""

    name: str = "lab"
    light: bool = True
    """Whether it is on."""


def test_apply_puts_flat_overrides_into_their_owners() -> None:
    engine, room = loader.apply((Engine(), Room()), {"layers": 3, "light": False, "rate": 1})
    assert engine == Engine(rate=1.0, layers=3)
    assert room == Room(light=False)
    assert type(engine.rate) is float


def test_apply_leaves_its_input_alone() -> None:
    before = Engine()
    loader.apply((before,), {"layers": 7})
    assert before.layers == 2


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"layer": 1}, ValueError, "unknown option 'layer'; did you mean 'layers'?"),
        ({"zzz": 1}, ValueError, "unknown option 'zzz'; known: rate, layers, kind, name, light"),
        ({"layers": 2.5}, TypeError, "layers is 2.5; it must be a whole number"),
        ({"layers": True}, TypeError, "layers is True; it must be a whole number"),
        ({"layers": "3"}, TypeError, "layers is '3'; it must be a whole number"),
        ({"rate": "x"}, TypeError, "rate is 'x'; it must be a number"),
        ({"rate": float("nan")}, ValueError, "rate is nan; it must be finite"),
        ({"layers": float("inf")}, TypeError, "layers is inf; it must be a whole number"),
        ({"layers": float("nan")}, TypeError, "layers is nan; it must be a whole number"),
        ({"rate": float("-inf")}, ValueError, "rate is -inf; it must be finite"),
        ({"rate": None}, TypeError, "rate is None; it must be a number"),
        ({"kind": "sgd"}, ValueError, "kind is 'sgd'; it must be adam or rmsprop"),
        ({"light": 1}, TypeError, "light is 1; it must be true or false"),
        ({"name": 3}, TypeError, "name is 3; it must be text"),
    ],
)
def test_a_wrong_override_gets_one_clear_line(
    overrides: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        loader.apply((Engine(), Room()), overrides)
    assert str(caught.value) == message


def test_a_name_in_two_configs_is_refused() -> None:
    with pytest.raises(TypeError, match="rate is a field of two configs"):
        loader.apply((Engine(), Engine()), {})


@pytest.mark.parametrize(("value", "expected"), [(1e6, 1_000_000), (3, 3), (-2.0, -2)])
def test_a_whole_float_is_a_whole_number(value: float, expected: int) -> None:
    coerced = loader.coerce("layers", value, int)
    assert coerced == expected
    assert type(coerced) is int


def test_numpy_scalars_become_plain_numbers() -> None:
    import numpy as np

    engine = loader.from_dict(Engine, {"layers": np.int64(4), "rate": np.float32(0.5)})
    assert (type(engine.layers), type(engine.rate)) == (int, float)


def test_dictionary_round_trip() -> None:
    engine = Engine(rate=0.25, layers=9, kind="rmsprop")
    assert loader.from_dict(Engine, loader.to_dict(engine)) == engine


def test_from_dict_fills_defaults_and_refuses_the_unknown() -> None:
    assert loader.from_dict(Engine, {"layers": 5}) == Engine(layers=5)
    with pytest.raises(ValueError, match="unknown option 'rates'; did you mean 'rate'"):
        loader.from_dict(Engine, {"rates": 5})


def test_docs_are_the_strings_under_the_fields() -> None:
    assert loader.docs(Engine) == {
        "rate": "Step size, per update.",
        "layers": "Number of layers.",
        "kind": "Which one.",
    }
    assert loader.docs(Room) == {"light": "Whether it is on."}


def test_a_path_is_text() -> None:
    assert loader.coerce("encoder_weights", Path("a") / "b.pth", str) == str(Path("a") / "b.pth")
    with pytest.raises(TypeError, match="it must be a whole number"):
        loader.coerce("layers", Path("3"), int)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1e-4", 1e-4), ("2.5e-4", 2.5e-4), ("-1E3", -1000.0), ("1_000", 1000), ("0.5", 0.5)],
)
def test_yaml_numbers(tmp_path: Path, text: str, expected: float) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"rate: {text}\n")
    assert loader.read_yaml(path) == {"rate": expected}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2 is not valid YAML: 'a' is given twice"),
        ("a: [1\n", "is not valid YAML"),
        ("- a\n", "must hold lines of `name: value`"),
        ("3: a\n", "must hold lines of `name: value`"),
        ("? [a]\n: 1\n", "is not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ],
)
def test_bad_yaml_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        loader.read_yaml(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_that_is_no_text_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match=r"p\.yaml"):
        loader.read_yaml(path)


def test_unknown_algorithm_and_preset_name_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown algorithm 'dqm'; did you mean 'dqn'"):
        loader.presets("dqm")
    with pytest.raises(ValueError, match="unknown preset of dqn 'natur'; did you mean 'nature'"):
        loader.load_preset("dqn", "natur")


def test_a_preset_is_no_path() -> None:
    with pytest.raises(ValueError, match="unknown preset"):
        loader.load_preset("dqn", "../dqn/nature")


def test_what_others_call_an_option_leads_to_one_of_ours() -> None:
    every = (configs.run.RunConfig, EnvConfig, configs.dqn.DQNConfig, configs.ddpg.DDPGConfig)
    ours = {name for config in every for name in loader.field_types(config)}
    for theirs, names in loader.ELSEWHERE.items():
        assert set(names) <= ours and names[0] in loader.nearest(theirs, names)
