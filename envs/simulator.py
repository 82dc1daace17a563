"""What is added around a MuJoCo environment: its pictures, and a word when it diverges."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from envs.find import install
from envs.layout import Checker, is_picture
from envs.vector import Diverged

DRAWN = 480
"""Height and width of the pictures of `render`, in pixels."""

GL_HINT = (
    "install EGL (Debian, Ubuntu: apt-get install libegl1 libgl1-mesa-dri) or OSMesa (libosmesa6)"
)

_of_thread = threading.local()
"""MuJoCo keeps one handler of warnings for the process, which it calls in the thread that steps."""


def _told() -> deque[str]:
    """MuJoCo's warnings in this thread since the last step."""
    if not hasattr(_of_thread, "told"):
        _of_thread.told = deque(maxlen=100)
    found: deque[str] = _of_thread.told
    return found


def quiet() -> None:
    """Keep MuJoCo's warnings here, and out of MUJOCO_LOG.TXT in the working folder, from now on.

    Where it is imported, that is: to be called before the first model is compiled.
    """
    mujoco = sys.modules.get("mujoco")
    if mujoco is not None:
        mujoco.set_mju_user_warning(lambda text: _told().append(text))


def import_mujoco() -> None:
    """Import MuJoCo, and keep it `quiet`.

    Raises ImportError, in one line, where it is missing, or where the GL that MUJOCO_GL asks it to
    load isn't there.
    """
    if importlib.util.find_spec("mujoco") is None:
        raise ImportError(f"MuJoCo is missing: {install('mujoco')}")
    try:
        importlib.import_module("mujoco")
    except Exception as error:  # PyOpenGL raises whatever a missing library leads to
        asked = os.environ.get("MUJOCO_GL")
        hint = f"MUJOCO_GL is {asked!r}: unset it, or {GL_HINT}" if asked else "reinstall it"
        raise ImportError(f"MuJoCo can't be imported ({error}); {hint}") from error
    quiet()


def simulation(env: gymnasium.Env[Any, Any]) -> tuple[Any, Any] | None:
    """The MjModel and MjData of an environment; None where it is no MuJoCo environment."""
    mujoco = sys.modules.get("mujoco")
    inner: Any = env.unwrapped
    if mujoco is None:
        return None
    model, data = getattr(inner, "model", None), getattr(inner, "data", None)
    if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData):
        return model, data
    return None


class Simulator(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A MuJoCo environment that is drawn in full quality and doesn't hide that it diverged.

    MuJoCo puts an unstable simulation back to its start in mid-episode and says so only in a file,
    MUJOCO_LOG.TXT, in the working folder. Here `step` raises Diverged, and no file is written.

    camera  as `envs.render.Renderer` takes it; ValueError for an unknown one, drawn or not
    """

    render_mode = "rgb_array"

    def __init__(self, env: gymnasium.Env[Any, Any], camera: str = "") -> None:
        super().__init__(env)
        self._camera = camera
        self._renderer: Any = None
        if camera:  # told here, and not after a training by the film
            from envs.render import find_camera

            find_camera(self._simulation()[0], camera)

    def _simulation(self) -> tuple[Any, Any]:
        found = simulation(self.env)
        assert found is not None
        return found

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        returned = self.env.reset(**options)
        _told().clear()
        return returned

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        returned = self.env.step(action)
        if told := _told():
            worst = next((text for text in told if "unstable" in text.lower()), "")
            told.clear()
            if worst:
                raise Diverged(" ".join(worst.split()))
        return returned

    def renderer(self, size: int, quality: Any) -> Any:
        """A renderer of the simulation, for square pictures; to be closed by the caller."""
        from envs.render import Renderer

        drawer = getattr(self.env.unwrapped, "mujoco_renderer", None)
        free = getattr(drawer, "default_cam_config", None)
        return Renderer(*self._simulation(), size, size, self._camera, quality, free)

    def render(self) -> np.ndarray:
        """A picture in full quality, (DRAWN, DRAWN, 3) uint8."""
        if self._renderer is None:
            self._renderer = self.renderer(DRAWN, "full")
        return np.array(self._renderer.picture())

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        super().close()


class Repeat(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Holds each action for `repeat` steps, or to the episode's end; rewards add up.

    Raises ValueError for a reward that is no number, Diverged for one that is not finite.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], repeat: int) -> None:
        super().__init__(env)
        self.repeat = repeat
        rate = env.metadata.get("render_fps")
        if isinstance(rate, int | float):
            self.metadata = {**env.metadata, "render_fps": rate / repeat}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self.repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += Checker.reward(reward)
            self.passed()
            if terminated or truncated:
                break
        return self.seen(observation), total, terminated, truncated, info

    def passed(self) -> None:
        """Called after each step that an action is held for."""

    def seen(self, observation: Any) -> Any:
        """What is shown for an observation."""
        return observation


class Pixels(Repeat):
    """Pictures in place of an environment's observations, (size, size, 3) uint8.

    every  show a picture of each step that an action is held for, (size, size, 3 * repeat), oldest
           first; the newest stands for those that an episode's end left out
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        size: int,
        repeat: int,
        quality: Any = "fast",
        every: bool = False,
    ) -> None:
        super().__init__(env, repeat)
        self.count = repeat if every else 1
        shape = (size, size, 3 * self.count)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self._renderer: Any = None
        self._draw: Callable[[], np.ndarray]
        if isinstance(env, Simulator):
            self._renderer = env.renderer(size, quality)
            self._draw = self._renderer.picture
        else:
            self._draw = lambda: _drawn(env, size)
        self._pictures: list[np.ndarray] = []

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        self._pictures = []  # of an episode that was dropped
        return self.seen(observation), info

    def passed(self) -> None:
        if self.count > 1:
            self._pictures.append(np.array(self._draw()))

    def seen(self, observation: Any) -> np.ndarray:
        pictures, self._pictures = self._pictures or [np.array(self._draw())], []
        pictures += [pictures[-1]] * (self.count - len(pictures))
        return np.concatenate(pictures, 2) if self.count > 1 else pictures[0]

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        super().close()


def _drawn(env: gymnasium.Env[Any, Any], size: int) -> np.ndarray:
    """What an environment of any kind renders, (size, size, 3); ValueError for no picture."""
    import cv2

    try:
        picture = env.render()
    except NotImplementedError:
        raise ValueError("render() is not there, and pixels are what it returns") from None
    if not isinstance(picture, np.ndarray):
        raise ValueError(f"render() returned {type(picture).__name__}; expected (H, W, 3) uint8")
    if not is_picture(picture) or not picture.size:
        raise ValueError(
            f"render() returned {picture.shape} {picture.dtype}; expected (H, W, 3) uint8"
        )
    return np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA))
