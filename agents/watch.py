"""Pictures of an agent on a live camera, made beside the loop and never in its way."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.film import enlarged
from agents.live import Acted
from envs.actions import Actions
from envs.camera.view import View

if TYPE_CHECKING:
    from agents.explain import Painter

_INK, _WARNING = (240, 240, 240), (255, 90, 60)


def overlay(picture: np.ndarray, text: str, *, safe: bool = False) -> np.ndarray:
    """`picture` (H, W, 3) uint8, enlarged, over a bar with `text`; red where it was `safe`."""
    import cv2

    big = enlarged(picture)
    bar = np.full((32, big.shape[1], 3), 24, np.uint8)
    colour = _WARNING if safe else _INK
    cv2.putText(bar, text, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return np.concatenate([big, bar])


class Watcher:
    """Makes a picture of the newest turn in a thread of its own, and hands it on.

    actions  of the agent, to call them by their names
    paint    draws what the agent looks at, where that is to be seen: by another copy of the agent
             than the one that acts, as a network can't be watched while another thread uses it
    out      each takes a picture (H, W, 3) uint8 and its time
    A turn that comes while the last is still drawn is left out.
    """

    def __init__(
        self,
        view: View,
        actions: Actions,
        paint: Painter | None,
        out: list[Callable[[Any, float], None]],
    ) -> None:
        self.fault = ""
        self._view, self._actions, self._paint, self._out = view, actions, paint, out
        self._cuts = view != View(view.source, grey=view.grey, resize=view.resize)
        self._turns: queue.SimpleQueue[Acted | None] = queue.SimpleQueue()
        self._busy = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watcher", daemon=True)
        self._thread.start()

    def __call__(self, turn: Acted) -> None:
        """Take a turn, unless the one before is still being drawn."""
        if not self._busy.is_set():
            self._busy.set()
            self._turns.put(turn)

    def close(self) -> None:
        """Finish the turn under way."""
        self._turns.put(None)
        self._thread.join(5)

    def _work(self) -> None:
        while (turn := self._turns.get()) is not None:
            try:
                picture, at = self._draw(turn), time.monotonic()
                for out in self._out:
                    out(picture, at)
            except Exception as error:  # a picture less must not end anything
                self.fault = f"{type(error).__name__}: {error}"
            self._busy.clear()

    def _draw(self, turn: Acted) -> np.ndarray:
        image = turn.frame.image
        if self._paint is None or turn.seen is None:
            text = f"{'SAFE ' if turn.safe else ''}action {self._told(turn.action)}"
            return overlay(image, f"{text}   frame {turn.frame.number}", safe=turn.safe)
        shown = self._view(image) if self._cuts else image
        shown = shown if shown.ndim == 3 else shown[:, :, None].repeat(3, 2)
        return self._paint(turn.seen, np.asarray(turn.chosen)[None], shown)

    def _told(self, action: Any) -> str:
        """An action in few letters."""
        if self._actions.names:
            return self._actions.names[self._actions.agent(action)]
        return " ".join(f"{value:+.2f}" for value in np.ravel(action))
