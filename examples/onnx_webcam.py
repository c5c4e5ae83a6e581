"""What a camera, or a video, shows right now, by an exported student: no torch, nothing of ours.

    pip install onnxruntime av opencv-python-headless
    python examples/onnx_webcam.py student.onnx                      the camera of this machine
    python examples/onnx_webcam.py student.onnx --video clip.mp4

A window slides over the last seconds. The file says which classes there are, how many frames a clip
has and which part of the picture it shows; only colours are normalised inside it.
"""

import argparse
import json
from collections import deque
from collections.abc import Iterator
from typing import Any

import av
import cv2
import numpy as np
import onnxruntime

CAMERA = ("/dev/video0", "v4l2")  # of Linux; on macOS ("0", "avfoundation")


class Student:
    """An exported student. ``classify`` takes frames of any number and size."""

    def __init__(self, path: str) -> None:
        self._session = onnxruntime.InferenceSession(path)
        said: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.class_names: list[str] = json.loads(said["class_names"])
        self._whole_picture = said["picture"].startswith("the whole picture")
        self._num_parts = int(said["num_parts"])
        self._parts: list[int] = json.loads(said["parts"])
        self._side: int = self._session.get_inputs()[0].shape[2]

    def small(self, picture: Any) -> Any:
        """Cut and resize an RGB picture ``(H, W, 3)`` as in training."""
        height, width, _ = picture.shape
        if not self._whole_picture:  # the centred square of 224/256 of the short side
            side = round(min(height, width) * 224 / 256)
            top, left = (height - side) // 2, (width - side) // 2
            picture = picture[top : top + side, left : left + side]
        shrinks = min(picture.shape[:2]) >= self._side
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(np.ascontiguousarray(picture), (self._side,) * 2, interpolation=method)

    def classify(self, frames: list[Any]) -> Any:
        """Return the probabilities ``(K,)`` of the classes, from small frames in their order."""
        doubled = 2 * self._num_parts
        chosen = [frames[(2 * part + 1) * len(frames) // doubled] for part in self._parts]
        (logits,) = self._session.run(["logits"], {"clip": np.stack(chosen)[None]})
        exponentials = np.exp(logits[0] - logits[0].max())
        return exponentials / exponentials.sum()


def answers(
    student: Student, video: str | None, window_seconds: float, stride_seconds: float
) -> Iterator[tuple[float, Any]]:
    """Yield times in seconds, and the probabilities of the window that ends there."""
    frames: deque[tuple[float, Any]] = deque()
    path, kind = (video, None) if video else CAMERA
    with av.open(path, format=kind) as container:
        due = window_seconds
        for number, frame in enumerate(container.decode(video=0)):
            now = frame.time if frame.time is not None else number / 25
            upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)  # of phones
            frames.append((now, student.small(upright)))
            while frames[0][0] <= now - window_seconds:
                frames.popleft()
            if now >= due:
                due = now + stride_seconds
                yield now, student.classify([small for _, small in frames])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("student")
    parser.add_argument("--video", help="a file, instead of the camera")
    parser.add_argument("--window-seconds", type=float, default=2.0)
    parser.add_argument("--stride-seconds", type=float, default=0.5)
    given = parser.parse_args()
    student = Student(given.student)
    for time, values in answers(student, given.video, given.window_seconds, given.stride_seconds):
        best = int(values.argmax())
        print(f"{time:8.1f} s  {values[best]:4.0%}  {student.class_names[best]}", flush=True)


if __name__ == "__main__":
    main()
