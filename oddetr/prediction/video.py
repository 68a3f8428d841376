"""Reading and writing videos frame by frame with OpenCV (the `video` extra)."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import UInt8

VIDEO_EXTENSIONS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"})
"""Lower-case extensions of video files."""

_CODEC = "mp4v"
"""MPEG-4 Part 2. OpenCV's packages hold no H.264; they do hold VP9, ten times slower to write."""
_LEAST_SIDE, _MOST_SIDE = 2, 8191
"""Pixels of a frame's side, within which the codec can write."""
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,m4v"
"""Formats that FFmpeg may read: no playlists, which name further files or addresses."""
_RATE = 25.0
"""Frames per second of a video whose header has none."""
_WHOLE = 0.9
"""A video with less than this share of the frames in its header counts as broken: headers may be a little wrong."""


class VideoError(OSError):
    """A video cannot be read, not to its end, or not drawn on."""


def _opencv() -> ModuleType:
    """OpenCV, with FFmpeg limited to video files."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # our errors say what is wrong with a file
    only = f"format_whitelist;{_CONTAINERS}|protocol_whitelist;file"
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", only)
    import cv2

    return cv2


class VideoReader:
    """Iterates over the RGB frames of a video, once.

    Attributes:
        rate: frames per second; 25 where the header has none.
        length: number of frames in the header; at least 1.

    Raises:
        VideoError: OpenCV is missing, or the file is no video; after the last frame that can be read, it is broken.
    """

    def __init__(self, file: Path) -> None:
        try:
            cv2 = _opencv()
        except ImportError as error:
            message = f"Cannot read the video {file}: it needs OpenCV, pip install opencv-python-headless."
            raise VideoError(message) from error
        self._file = file
        self._capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            found = "the file is missing" if not file.exists() else "it is empty, broken or no video"
            raise VideoError(f"Cannot read the video {file}: {found}. Restore the file from its source.")
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.rate = rate if 0 < rate <= 1000 else _RATE
        self.length = max(1, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        count = 0
        while True:
            good, frame = self._capture.read()
            if not good:
                break
            count += 1
            yield frame[:, :, ::-1].copy()
        self._capture.release()
        if count < _WHOLE * self.length:
            raise VideoError(
                f"The video {self._file} breaks off after {count} of {self.length} frames. Restore the file from its "
                "source."
            )


def check_drawable(file: Path, height: int, width: int) -> None:
    """Raises `VideoError` where `VideoWriter` cannot write frames of a video's size, in pixels."""
    if min(height, width) < _LEAST_SIDE or max(height, width) > _MOST_SIDE:
        raise VideoError(
            f"Cannot draw on the video {file}: its frames have {width} x {height} pixels, and MPEG-4 holds sides of "
            f"{_LEAST_SIDE} to {_MOST_SIDE}. Make it smaller, or leave pictures out: --formats coco."
        )


class VideoWriter:
    """Writes an MP4 file without sound (MPEG-4 Part 2); once closed, it can be played with the frames written so far.

    Args:
        rate: frames per second.
        size: (height, width) of the frames in pixels; the last row or column of an odd side is left out.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, file: Path, rate: float, size: tuple[int, int]) -> None:
        cv2 = _opencv()
        code = cv2.VideoWriter.fourcc(*_CODEC)
        self._writer = cv2.VideoWriter(str(file), code, rate, (size[1], size[0]))
        if not self._writer.isOpened():
            raise OSError(f"Cannot write the video {file}. Is there room, and may this folder be written to?")

    def write(self, image: UInt8[np.ndarray, "height width 3"]) -> None:
        self._writer.write(image[:, :, ::-1].copy())

    def close(self) -> None:
        self._writer.release()
