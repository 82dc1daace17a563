"""What TensorBoard reads: scalars, pictures and texts."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

from agents.process import Whole


class Events:
    """An event file of TensorBoard's, by its own record writer.

    torch's writer takes seconds to import, and tensorboard's whole one works in a thread, whose
    errors (a full disk) nobody would catch.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        folder.mkdir(exist_ok=True)
        # TensorBoard reads a folder's files in the order of their names
        name = f"events.out.tfevents.{time.time_ns():020d}.{os.getpid()}"
        self._writer = RecordWriter(Whole(folder / name))
        self._add(file_version="brain.Event:2")
        if start_step:
            # TensorBoard forgets what earlier files say of this step and beyond.
            self._add(step=start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, name: str, value: float, step: int) -> None:
        """A point of the curve `name`."""
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
        self._add(step=step, summary=summary)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """A picture (H, W, 3) uint8."""
        import cv2

        _, png = cv2.imencode(".png", picture[:, :, ::-1])
        height, width = picture.shape[:2]
        image = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png.tobytes()
        )
        self._add(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def text(self, name: str, markdown: str, step: int) -> None:
        """A text in Markdown."""
        of_texts = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        held = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
        value = Summary.Value(tag=name, metadata=of_texts, tensor=held)
        self._add(step=step, summary=Summary(value=[value]))

    def flush(self) -> None:
        """Hand everything to the system; OSError where it doesn't take all; the rest waits."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file; what was not flushed is lost."""
        self._writer.close()

    def _add(self, **content: Any) -> None:
        event = Event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())
