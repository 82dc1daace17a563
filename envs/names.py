"""Names of environments: Atari games in any spelling, Gymnasium's, dm_control's, and classes."""

from __future__ import annotations

import contextlib
import difflib
import re
from functools import lru_cache
from typing import Literal, NamedTuple

_VERSION = re.compile(r"-v\d+$", re.IGNORECASE)
# ALE ends the whole process when it loads one of these.
_TWO_PLAYERS = frozenset({"combat", "joust", "maze_craze", "warlords"})
# Gymnasium's shims for other packages, and its copies for JAX.
_APART = ("GymV2", "phys2d/", "tabular/")
_ATARI_SUFFIX = re.compile(r"(deterministic|noframeskip)?(-v[045])?$", re.IGNORECASE)


class EnvName(NamedTuple):
    """What a name stands for."""

    kind: Literal["atari", "gymnasium", "dmc", "class"]
    id: str
    """A ROM of ALE (`space_invaders`), a Gymnasium id, dm_control's `dmc/domain-task`, or
    package.module:Class."""


def _plain(name: str) -> str:
    """Letters and digits alone: `Ms. Pac-Man` and `ms_pacman` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@lru_cache(maxsize=1)
def _atari() -> dict[str, str]:
    """Plain name -> ROM id."""
    from ale_py import roms

    playable = sorted(set(roms.get_all_rom_ids()) - _TWO_PLAYERS)
    games = {_plain(rom): rom for rom in playable}
    # Printed on the cartridge, but not spelt like the ROM.
    cartridges = {
        "montezumasrevenge": "montezuma_revenge",
        "yarrevenge": "yars_revenge",
        "3dtictactoe": "tic_tac_toe_3d",
    }
    return games | {plain: rom for plain, rom in cartridges.items() if rom in games.values()}


def _gymnasium_ids() -> list[str]:
    """Registered ids, without those of Atari, which have their own path."""
    import gymnasium

    return sorted(
        id_ for id_, spec in gymnasium.registry.items() if "ale_py" not in str(spec.entry_point)
    )


def _newest() -> dict[str, str]:
    """Plain name without version -> the id with the highest one."""
    version = {
        id_: int(id_.rpartition("-v")[2]) for id_ in _gymnasium_ids() if _VERSION.search(id_)
    }
    return {_plain(_VERSION.sub("", id_)): id_ for id_ in sorted(version, key=version.__getitem__)}


def names() -> list[EnvName]:
    """The environments to offer: Atari's games, Gymnasium's in their newest version, dm_control's.

    Left out is what can be had in another form: versions that were replaced, Gymnasium's shims for
    other packages, and its copies for JAX; and dm_control's where it doesn't run.
    """
    games = [EnvName("atari", rom) for rom in sorted(set(_atari().values()))]
    ids = sorted(id_ for id_ in _newest().values() if not id_.startswith(_APART))
    return games + [EnvName("gymnasium", id_) for id_ in ids] + _dmc()


def _dmc() -> list[EnvName]:
    """dm_control's tasks; none where it can't be imported, which making one tells."""
    from envs import dmc

    with contextlib.suppress(ImportError):
        return [EnvName("dmc", f"dmc/{task}") for task in dmc.tasks()]
    return []


def resolve(name: str) -> EnvName:
    """Say what `name` stands for, without making it.

    `dmc/` heads the tasks of dm_control. A short name is an Atari game; so are `ALE/Breakout-v5`
    and `BreakoutNoFrameskip-v4`, whose preprocessing then comes from the protocol. Any other id is
    Gymnasium's, in its newest version where it names none; `module:Name-v0` imports `module` first,
    as `gymnasium.make` does. Anything else with a colon is package.module:Class. Raises ValueError,
    naming the nearest, for what is none of these.
    """
    name = name.strip()
    if ":" in name:
        module, _, attribute = name.partition(":")
        if not module or not attribute:
            raise ValueError(f"environment {name!r} is not of the form package.module:Class")
        return EnvName("gymnasium" if _VERSION.search(attribute) else "class", name)

    if name.lower().startswith("dmc/"):
        from envs import dmc

        return EnvName("dmc", f"dmc/{dmc.find(name[4:])}")
    short = name[4:] if name.lower().startswith("ale/") else name
    if "-ram" in short.lower():
        raise ValueError(
            f"environment {name!r}: Atari is played from pixels here; drop '-ram' from its name"
        )
    if short is name and _VERSION.search(name):
        # Before Atari: Blackjack-v1 is Gymnasium's card table, Blackjack a cartridge.
        ids = _gymnasium_ids()
        if name in ids:
            return EnvName("gymnasium", name)
    plain = _plain(_ATARI_SUFFIX.sub("", short))
    rom = _atari().get(plain)
    if rom is not None:
        return EnvName("atari", rom)
    if plain in {_plain(rom) for rom in _TWO_PLAYERS}:
        raise ValueError(f"environment {name!r}: this Atari game needs two players")
    newest = _newest().get(_plain(name))
    if short is name and newest is not None:
        return EnvName("gymnasium", newest)
    raise ValueError(_unknown(name))


def _unknown(name: str) -> str:
    known: dict[str, str] = {}
    for id_ in _gymnasium_ids():
        if not id_.startswith(_APART):
            # Ascending versions: the last one stands.
            known[_plain(_VERSION.sub("", id_))] = id_
            known[_plain(id_)] = id_
    known |= {plain: rom.title().replace("_", "") for plain, rom in _atari().items()}
    known |= {_plain(task.id[4:]): task.id for task in _dmc()}
    plain = _plain(re.sub("^(ALE|dm_control)/", "", name))
    near = difflib.get_close_matches(plain, known, n=3, cutoff=0.6)
    hint = ", ".join(dict.fromkeys(known[match] for match in near))
    if hint:
        return f"unknown environment {name!r}; the nearest: {hint}"
    return (
        f"unknown environment {name!r}; expected an Atari game (Breakout), a Gymnasium id "
        "(CartPole-v1), dmc/cartpole-swingup or package.module:Class"
    )
