"""Pictures of a MuJoCo simulation, offscreen, as fast as a processor without a GPU allows.

Shadows, reflections and multisampling take nearly all of the time that a software renderer spends
on a small picture, and leave hardly a trace in it; `quality="fast"` draws none of them.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

import mujoco
import numpy as np

from envs.find import install
from envs.simulator import GL_HINT

Quality = Literal["fast", "full"]
BACKENDS = ("egl", "osmesa")
"""Ways to a GL context without a screen, in the order in which they are tried."""

_DEAR = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION)


class Renderer:
    """Draws one simulation from one camera; made, used and closed in one thread.

    model, data    MuJoCo's; `data` is read anew for each picture
    height, width  of the picture, in pixels
    camera         a name, or a number; "" takes the one called track, else the first, else a free
                   one, for which `free` gives attributes of MuJoCo's MjvCamera
    quality        fast, without shadows, reflections and multisampling; full, as the model says
    Raises ValueError, in one line, for an unknown camera, and where no GL can be had.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        height: int,
        width: int,
        camera: str = "",
        quality: Quality = "fast",
        free: Mapping[str, Any] | None = None,
    ) -> None:
        self._model, self._data = model, data
        self._camera = _camera(model, camera, free or {})
        self._gl = gl_context(width, height)
        self._gl.make_current()
        visual = model.vis
        visual.global_.offwidth = max(visual.global_.offwidth, width)
        visual.global_.offheight = max(visual.global_.offheight, height)
        samples = visual.quality.offsamples
        if quality == "fast":
            visual.quality.offsamples = 0  # read once, when the context is made
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        visual.quality.offsamples = samples
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, 10_000)
        if quality == "fast":
            for flag in _DEAR:
                self._scene.flags[flag] = 0
        self._option = mujoco.MjvOption()
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)

    def picture(self) -> np.ndarray:
        """The simulation as it stands, (H, W, 3) uint8; valid until the next one."""
        self._gl.make_current()
        every = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, None, self._camera, every, self._scene
        )
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return self._pixels[::-1]  # GL counts rows from below

    def close(self) -> None:
        """Free the context; closing twice is no error."""
        if self._gl is None:
            return
        self._gl.make_current()
        self._context.free()
        self._gl.free()
        self._gl = None


def gl_context(width: int, height: int) -> Any:
    """An offscreen GL context by MUJOCO_GL where that is set, else by the first that works.

    Raises ValueError, in one line, that says what to install where none does.
    """
    if importlib.util.find_spec("OpenGL") is None:
        raise ValueError(f"offscreen rendering needs PyOpenGL: {install('mujoco')}")
    asked = os.environ.get("MUJOCO_GL", "").lower()
    asked = asked if asked in BACKENDS else ""  # glfw wants a screen
    _load_before_gl()
    if os.environ.get("PYOPENGL_PLATFORM", "egl") not in BACKENDS:  # such as glx, for a screen
        del os.environ["PYOPENGL_PLATFORM"]
    failed = []
    for backend in (asked,) if asked else BACKENDS:
        try:
            return importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        except Exception as error:  # PyOpenGL raises whatever a missing library leads to
            failed.append(f"{backend}: {str(error).splitlines()[0] if str(error) else error!r}")
            _forget_gl()
    told = f"MUJOCO_GL is {asked!r}, which " if asked else "offscreen rendering "
    raise ValueError(
        f"{told}doesn't work here ({'; '.join(failed)}); {GL_HINT}"
        + (", or unset MUJOCO_GL" if asked else "")
    )


def _load_before_gl() -> None:
    """Load Triton, where torch would do so later, before Mesa's software renderer.

    Both carry LLVM: Triton ends the process when it is loaded after Mesa, and not before it.
    """
    if "triton" not in sys.modules and importlib.util.find_spec("triton"):
        with contextlib.suppress(Exception):
            importlib.import_module("triton")


def _forget_gl() -> None:
    """Let the next backend be tried: PyOpenGL binds to one platform when it is imported."""
    os.environ.pop("PYOPENGL_PLATFORM", None)
    for name in list(sys.modules):
        if name.partition(".")[0] == "OpenGL" or name.startswith(("mujoco.egl", "mujoco.osmesa")):
            del sys.modules[name]


def find_camera(model: Any, name: str) -> int:
    """A camera's number by its name or number; -1, the free one, where there is none for ''.

    Raises ValueError, naming the nearest, for what is none.
    """
    names = [model.camera(i).name for i in range(model.ncam)]
    if not name:
        return names.index("track") if "track" in names else min(0, model.ncam - 1)
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < model.ncam:
        return int(name)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    is_number = name.lstrip("-").isdecimal()
    hint = f"; did you mean {near[0]!r}?" if near and near[0] and not is_number else ";"
    known = ", ".join(f"{i} {label}".strip() for i, label in enumerate(names)) or "none"
    raise ValueError(f"no camera is called {name!r}{hint} here are: {known}")


def _camera(model: Any, name: str, free: Mapping[str, Any]) -> Any:
    camera, number = mujoco.MjvCamera(), find_camera(model, name)
    if number < 0:
        mujoco.mjv_defaultFreeCamera(model, camera)
        for key, value in free.items():
            if key == "lookat":
                camera.lookat[:] = value
            else:
                setattr(camera, key, value)
        if free.get("trackbodyid", -1) >= 0:
            camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
        return camera
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
    return camera
