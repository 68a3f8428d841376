"""Reading and writing videos frame by frame with OpenCV (the `video` extra)."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType

import numpy as np
from jaxtyping import UInt8

from oddetr.data.images import MOST_PIXELS_ALONE

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
    """A video is missing, empty, broken, no video, or of frames too large or small; or OpenCV is missing."""


def opencv() -> ModuleType:
    """Imports OpenCV, with FFmpeg limited to video files.

    Raises:
        VideoError: it is not installed.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # our errors say what is wrong with a file
    only = f"format_whitelist;{_CONTAINERS}|protocol_whitelist;file"
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", only)
    try:
        import cv2
    except ImportError as error:
        raise VideoError("Videos need OpenCV: pip install opencv-python-headless.") from error
    return cv2


class VideoReader:
    """Iterates over the RGB frames of a video, once; a context manager.

    Attributes:
        rate: frames per second; 25 where the header has none.
        length: number of frames in the header; at least 1.

    Raises:
        VideoError: on construction, the file is no video, or its frames have too many pixels; on iteration, there is
            no frame, or, after the last one that can be read, the video is broken or its frames become too large.
    """

    def __init__(self, file: Path) -> None:
        self._cv2 = opencv()
        self._file = file
        self._capture = self._cv2.VideoCapture(str(file), self._cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            found = "the file is missing" if not file.exists() else "it is empty, broken or no video"
            raise VideoError(f"Cannot read the video {file}: {found}. Restore the file from its source.")
        sides = (self._cv2.CAP_PROP_FRAME_HEIGHT, self._cv2.CAP_PROP_FRAME_WIDTH)
        height, width = (int(self._capture.get(side)) for side in sides)
        self._check_size(height, width)
        rate = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        self.rate = rate if 0 < rate <= 1000 else _RATE
        self.length = max(1, int(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT)))

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        count = 0
        while True:
            good, frame = self._capture.read()
            if not good:
                break
            self._check_size(*frame.shape[:2])
            count += 1
            yield self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)
        if count == 0:
            raise VideoError(
                f"Cannot read the video {self._file}: it holds no frame. Restore the file from its source."
            )
        if count < _WHOLE * self.length:
            raise VideoError(
                f"The rest of the video {self._file}, which breaks off after {count} of {self.length} frames. Restore "
                "the file from its source."
            )

    def _check_size(self, height: int, width: int) -> None:
        if height * width > MOST_PIXELS_ALONE:
            raise VideoError(
                f"Cannot read the video {self._file}: its frames have {width} x {height} pixels; at most "
                f"{MOST_PIXELS_ALONE:,} are read. Make it smaller."
            )


def check_drawable(file: Path, size: tuple[int, int]) -> None:
    """Checks that `VideoWriter` can write frames of a video's size.

    Args:
        file: the video.
        size: (height, width) of its frames in pixels.

    Raises:
        VideoError: a side is too small or too large.
    """
    if not all(_LEAST_SIDE <= side <= _MOST_SIDE for side in size):
        raise VideoError(
            f"Cannot draw on the video {file}: its frames have {size[1]} x {size[0]} pixels, and MPEG-4 holds sides "
            f"of {_LEAST_SIDE} to {_MOST_SIDE}. Make it smaller, or leave pictures out: --formats coco."
        )


class VideoWriter:
    """Writes an MP4 file without sound (MPEG-4 Part 2); once closed, it can be played with the frames written so far.

    Args:
        file: ends in .mp4.
        rate: frames per second.
        size: (height, width) of the frames in pixels, accepted by `check_drawable`; the last row or column of an odd
            side is left out.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, file: Path, rate: float, size: tuple[int, int]) -> None:
        self._cv2 = opencv()
        code = self._cv2.VideoWriter.fourcc(*_CODEC)
        self._writer = self._cv2.VideoWriter(str(file), code, rate, (size[1], size[0]))
        if not self._writer.isOpened():
            raise OSError(f"Cannot write the video {file}. Is there room, and may this folder be written to?")

    def write(self, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """Appends an RGB frame."""
        self._writer.write(self._cv2.cvtColor(image, self._cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finishes the file."""
        self._writer.release()
