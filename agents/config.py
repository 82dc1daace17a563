"""Everything a run was started with: resolved from preset and overrides, kept in the run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import configs.ddpg
import configs.dqn
import configs.run
from agents.process import write_text
from configs.ddpg import DDPGConfig
from configs.dqn import DQNConfig
from configs.loader import (
    apply,
    from_dict,
    load_preset,
    read_yaml,
    to_dict,
    unknown,
)
from configs.run import RunConfig
from envs.args import written
from envs.config import EnvConfig

SCHEMA = 1
"""Version of config.yaml; raised when a file of the old form would be misread."""

FILE = "config.yaml"
_PARTS = ("run", "env", "agent")

AgentConfig = Any
"""One of the algorithms' configs."""


class Algorithm(NamedTuple):
    """What the rest of the house knows of an algorithm before torch is imported."""

    config: type[Any]
    """Its options, a frozen dataclass."""
    check: Callable[[Any], None]
    """Raises ValueError where one of them is out of its range."""
    agent: str
    """module:Class of what acts and learns."""
    continuous: bool
    """Whether its actions are a Box, within [-1, 1], or else Discrete."""
    images: str
    """The preset where none is named and the environment shows images."""
    vectors: str
    """The preset where none is named and it shows vectors."""


ALGORITHMS = {
    "dqn": Algorithm(DQNConfig, configs.dqn.check, "agents.dqn:DQN", False, "default", "classic"),
    "ddpg": Algorithm(
        DDPGConfig, configs.ddpg.check, "agents.ddpg:DDPG", True, "pixels", "default"
    ),
}


@dataclass(frozen=True)
class TrainConfig:
    """The resolved config of a run."""

    algorithm: str
    preset: str
    run: RunConfig
    env: EnvConfig
    agent: AgentConfig

    def flat(self) -> dict[str, Any]:
        """All options by name, as the command line and the presets know them."""
        return to_dict(self.run) | to_dict(self.env) | to_dict(self.agent)

    def replace(self, **overrides: Any) -> TrainConfig:
        """The same with some options set anew, under the checks of `resolve`."""
        parts = apply((self.run, self.env, self.agent), overrides)
        return _checked(dataclasses.replace(self, run=parts[0], env=parts[1], agent=parts[2]))

    def save(self, run_dir: Path) -> Path:
        """Write run_dir/config.yaml and return its path."""
        from importlib.metadata import version

        import yaml

        values: dict[str, Any] = {
            "schema": SCHEMA,
            "version": version("sightline-rl"),
            "algorithm": self.algorithm,
            "preset": self.preset,
        }
        values |= {part: to_dict(getattr(self, part)) for part in _PARTS}
        path = run_dir / FILE
        write_text(path, yaml.safe_dump(values, sort_keys=False))
        return path


def default_preset(algorithm: str, *, image: bool) -> str:
    """The preset of an algorithm where none is named, by what the environment shows."""
    return lookup(algorithm).images if image else lookup(algorithm).vectors


def resolve(
    algorithm: str, preset: str | None, overrides: Mapping[str, Any], *, image: bool
) -> TrainConfig:
    """Defaults, then the preset, then the overrides (flat, by field name), checked.

    `image` says whether the env's observations are images; it only picks the preset where
    `preset` is None. Raises ValueError or TypeError, in one line, for an unknown algorithm,
    preset or option and for a value of a wrong type or range.
    """
    agent = lookup(algorithm).config
    name = default_preset(algorithm, image=image) if preset is None else preset
    own = overrides.get("env_args", "")
    if own is None or isinstance(own, Mapping):
        overrides = {**overrides, "env_args": written(own or {})}
    parts = apply((RunConfig(), EnvConfig(), agent()), load_preset(algorithm, name))
    run, env, agent_config = apply(parts, overrides)
    return _checked(TrainConfig(algorithm, name, run, env, agent_config))


def load(run_dir: Path) -> TrainConfig:
    """The config that `TrainConfig.save` wrote into a run folder.

    Raises FileNotFoundError where the folder holds no run, ValueError for a file that is
    damaged, of a newer schema, or holds what this version doesn't know.
    """
    path = Path(run_dir) / FILE
    if not Path(run_dir).is_dir():
        raise FileNotFoundError(f"no run folder at {run_dir}{_near_folder(Path(run_dir))}")
    if not path.is_file():
        raise FileNotFoundError(f"{run_dir} is not a run folder: it holds no {FILE}")
    values = read_yaml(path)
    if not values:
        raise ValueError(f"{path} is empty")
    schema = values.pop("schema", None)
    if isinstance(schema, int) and schema > SCHEMA:
        raise ValueError(
            f"{path} has schema {schema}, and this version reads up to {SCHEMA}: "
            "update sightline-rl to read it"
        )
    if schema != SCHEMA:
        raise ValueError(f"{path} names no valid schema: {schema!r}")
    values.pop("version", None)  # of whoever wrote it, for the reader
    algorithm, preset = values.pop("algorithm", None), values.pop("preset", None)
    sections = {part: values.pop(part, None) for part in _PARTS}
    if values:
        raise ValueError(f"{path}: unknown key {next(iter(values))!r}")
    for name, value in (("algorithm", algorithm), ("preset", preset)):
        if not isinstance(value, str):
            raise ValueError(f"{path}: {name} is {value!r}; it must be a name")
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ValueError(f"{path}: {name} is missing or holds no options")
    try:
        run = from_dict(RunConfig, sections["run"])
        env = from_dict(EnvConfig, sections["env"])
        agent = from_dict(lookup(algorithm).config, sections["agent"])
        return _checked(TrainConfig(algorithm, preset, run, env, agent))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def lookup(algorithm: str) -> Algorithm:
    """An algorithm by its name. ValueError names the nearest known one."""
    if algorithm not in ALGORITHMS:
        raise ValueError(unknown("algorithm", algorithm, ALGORITHMS))
    return ALGORITHMS[algorithm]


def make_run_dir(config: TrainConfig) -> Path:
    """A new folder in `config.run.out`, such as dqn-Breakout-s1-20250131-104512.

    The name tells algorithm, env, seed and local time; where it is taken, -2, -3, ... follow,
    so that no two runs share one. Raises ValueError where `out` names no folder, OSError where it
    can't be made for another reason.
    """
    import re
    import time

    env = re.sub(r"^ALE/(.*)-v\d+$", r"\1", config.env.env)
    env = re.sub(r"[^A-Za-z0-9_.]+", "-", env).strip("-.") or "env"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    parent = Path(config.run.out)
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"out is {config.run.out!r}; a file is there, and not a folder") from None
    name = f"{config.algorithm}-{env}-s{config.run.seed}-{stamp}"
    attempt = 1
    while True:
        folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            attempt += 1


def _near_folder(run_dir: Path) -> str:
    from configs.loader import nearest

    parent = run_dir.parent
    if not parent.is_dir():
        return ""
    found = [str(path) for path in parent.iterdir() if (path / FILE).is_file()]
    return nearest(str(run_dir), found)


def _checked(config: TrainConfig) -> TrainConfig:
    """`config`, once every range holds."""
    configs.run.check(config.run)
    lookup(config.algorithm).check(config.agent)
    if config.env.num_envs < 1:
        raise ValueError(f"num_envs is {config.env.num_envs}; it must be at least 1")
    return config
