"""The house's arrows, its light imports, and the size of its rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
ROOMS = ("agents", "configs", "envs", "replay", "vision")
OUTSIDE = ("benchmarks", "examples", "tests")
"""The only folders beside itself that may import `agents`."""

MAY_IMPORT = {
    "agents": {"configs", "envs", "replay", "vision"},
    "configs": set(),
    "envs": set(),
    "replay": set(),
    "vision": set(),
}
NEVER = {
    "configs": {"torch", "numpy", "gymnasium", "numba"},
    "envs": {"torch", "numba"},
    "replay": {"gymnasium", "ale_py"},
    "vision": {"gymnasium", "ale_py"},
}
HEAVY = {
    "torch", "gymnasium", "numba", "tensorboard", "ale_py", "cv2", "av", "matplotlib",
    "stable_baselines3",
}  # fmt: skip


def modules(folder: str) -> list[Path]:
    return sorted((HOUSE / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Top-level names of all that a module imports, wherever in it, lazily or not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else None
            name = node.func.id if isinstance(node.func, ast.Name) else name
            target = node.args[0]
            dynamic = name in ("import_module", "__import__")
            if dynamic and isinstance(target, ast.Constant) and isinstance(target.value, str):
                yield target.value.partition(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_its_arrows_allow(room: str) -> None:
    assert modules(room)
    forbidden = (set(ROOMS) | set(OUTSIDE)) - MAY_IMPORT[room] - {room} | NEVER.get(room, set())
    for path in modules(room):
        assert not forbidden & set(imported(path)), path


def test_only_tests_benchmarks_and_examples_import_agents() -> None:
    for folder in HOUSE.iterdir():
        foreign = folder.name.startswith(".") or (folder / "pyvenv.cfg").exists()
        if not foreign and folder.name not in ("agents", "build", "dist", *OUTSIDE):
            for path in [folder] if folder.suffix == ".py" else modules(folder.name):
                assert "agents" not in set(imported(path)), path


def test_only_tests_import_tests() -> None:
    for path in [*modules("benchmarks"), *modules("examples")]:
        assert "tests" not in set(imported(path)), path


def test_configs_need_only_the_standard_library_and_yaml() -> None:
    allowed = sys.stdlib_module_names | {"configs", "yaml"}
    for path in modules("configs"):
        assert set(imported(path)) <= allowed, path


@pytest.mark.parametrize("room", ROOMS)
def test_a_file_is_one_room(room: str) -> None:
    for path in modules(room):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 400, f"{path} has {lines} lines: it wants to be two"


def reads_tensors_only(node: ast.AST) -> bool:
    """Whether it is a call with weights_only=True: torch then runs no code of the file's."""
    return isinstance(node, ast.Call) and any(
        word.arg == "weights_only"
        and isinstance(word.value, ast.Constant)
        and word.value.value is True
        for word in node.keywords
    )


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_is_unpickled(room: str) -> None:
    for path in modules(room):
        assert not {"pickle", "cloudpickle", "dill", "joblib"} & set(imported(path)), path
        tree = ast.parse(path.read_text(encoding="utf-8"))
        safe = {node.func for node in ast.walk(tree) if reads_tensors_only(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "load" and node not in safe:
                base = node.value.id if isinstance(node.value, ast.Name) else ""
                assert base not in ("torch", "np", "numpy"), f"{path}:{node.lineno}"


def test_importing_the_rooms_is_light() -> None:
    code = f"import sys, {', '.join(ROOMS)}\nprint(*({HEAVY!r} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=HOUSE, check=True, capture_output=True, text=True
    )
    assert found.stdout.split() == []


def test_the_walk_sees_every_kind_of_import(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import a.b, c\nfrom d.e import f\n"
        "def g():\n    import h\n    import_module('i.j')\n    importlib.import_module('k')\n"
    )
    assert sorted(imported(path)) == ["a", "c", "d", "h", "i", "k"]
