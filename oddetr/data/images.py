"""Image files: decoding to RGB, sizes as shown (EXIF orientation applied), and what is wrong with a file.

Pillow's decoders raise whatever they trip over when a file is corrupt, so everything they raise counts as unreadable.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
from rich.console import Console
from rich.progress import track

from oddetr.common.regular import TooLarge, read_regular, reason, require_regular

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Image files by their lower-case extension."""

_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
"""What a file may hold, whatever its name; others of Pillow's formats call programs (EPS), or take any bytes (TGA)."""
LARGEST = 2**30
"""Bytes of an image file: more than the most pixels take without compression."""
MOST_PIXELS, MOST_PIXELS_ALONE = 89_478_485, 178_956_970
"""Of an image in a data set, and of one that is read alone, to look for objects in it. Pillow warns of more than the
first and refuses more than the second, unless another library in the process has set its `MAX_IMAGE_PIXELS`."""

_BOMB = (Image.DecompressionBombWarning, Image.DecompressionBombError)
_ORIENTATIONS_THAT_SWAP_SIDES = frozenset({5, 6, 7, 8})

Result = TypeVar("Result")


class ImageError(OSError):
    """An image file that is missing, truncated, too large or no image."""


@dataclass(frozen=True)
class ImageFacts:
    """What an image file turned out to be.

    Attributes:
        size: (height, width) in pixels as shown; None where the file cannot be read.
        rotated: whether EXIF orientation swaps the stored width and height.
        digest: of the file's bytes; empty where only the header was read.
        problem: why the file cannot be read; empty where it can.
        too_large: whether the problem is its size.
        animated: whether it holds several pictures, of which the first counts; false where only the header was read.
    """

    size: tuple[int, int] | None
    rotated: bool = False
    digest: bytes = b""
    problem: str = ""
    too_large: bool = False
    animated: bool = False


def read_image(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """The image as shown: EXIF orientation applied, converted to RGB.

    Palettes and transparency are resolved (colours stay, transparency is dropped); 16 bits per pixel are scaled to 8.
    Of several pictures in a file (animations, pages) it is the first.

    Raises:
        ImageError: the file is missing, truncated, or no image that can be read.
    """
    return read_reduced(path, None)[0]


def read_reduced(path: Path, shorter: int | None) -> tuple[UInt8[np.ndarray, "height width 3"], tuple[int, int]]:
    """`read_image`, maybe at reduced size, and the (height, width) at full size as shown.

    A JPEG is decoded at 1/2, 1/4 or 1/8, which takes a fraction of the time, where its shorter side keeps `shorter`
    pixels; other formats, or all if `shorter` is None, are decoded at full size.

    Raises:
        ImageError: as `read_image`.
    """
    try:
        with _opened(path, MOST_PIXELS_ALONE) as image:
            size = _facts(image).size
            reduced = shorter is not None and image.draft(None, (shorter, shorter)) is not None
            pixels = _rgb(image)
            return pixels, size if reduced and size else (pixels.shape[0], pixels.shape[1])
    except Exception as problem:
        found = _unreadable(problem).problem
        gone = isinstance(problem, FileNotFoundError) and [folder for folder in path.parents if not folder.exists()]
        if gone:
            raise ImageError(f"Cannot read the image {path}: there is no {gone[-1]}. Bring it back.") from problem
        raise ImageError(f"Cannot read the image {path}: {found}. Restore the file from its source.") from problem


def read_size(path: Path, most: int = MOST_PIXELS) -> ImageFacts:
    """Size and orientation, from the file's header alone; too large, if it has more than `most` pixels."""
    try:
        with _opened(path, most) as image:
            return _facts(image)
    except Exception as problem:
        return _unreadable(problem)


def decode(path: Path) -> ImageFacts:
    """Size, orientation and digest; the file is decoded to its last pixel."""
    try:
        content = read_regular(path, LARGEST)
        with _bounded(Image.open(io.BytesIO(content), formats=_FORMATS), MOST_PIXELS) as image:
            rotated = _facts(image).rotated
            animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            height, width, _ = _rgb(image).shape
    except Exception as problem:
        return _unreadable(problem)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return ImageFacts((height, width), rotated, digest, animated=animated)


def map_images(
    function: Callable[[Path], Result], paths: Sequence[Path], console: Console | None = None, title: str = "Images"
) -> list[Result]:
    """`function` of every path, in order, by a pool of threads; shows progress on `console` if it is a terminal."""
    with _quiet(), ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        results: Iterator[Result] = pool.map(function, paths)
        if console is None or not console.is_terminal:
            return list(results)
        return list(track(results, title, total=len(paths), console=console, transient=True))


def _opened(path: Path, most: int) -> Image.Image:
    require_regular(path, LARGEST)
    return _bounded(Image.open(path, formats=_FORMATS), most)


def _bounded(image: Image.Image, most: int) -> Image.Image:
    if image.width * image.height > most:
        image.close()
        raise TooLarge(f"it has {image.width} x {image.height} pixels; at most {most:,} are read")
    return image


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _sixteen_bits(np.asarray(image))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, which have no agreed range")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _sixteen_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError("its pixels do not fit into 16 bits")
    return np.repeat((pixels >> 8).astype(np.uint8)[:, :, None], 3, axis=2)


def _facts(image: Image.Image) -> ImageFacts:
    rotated = image.getexif().get(ExifTags.Base.Orientation) in _ORIENTATIONS_THAT_SWAP_SIDES
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # of these, Pillow has swapped the sides already
        width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
    return ImageFacts((width, height) if rotated else (height, width), rotated)


def _unreadable(problem: BaseException) -> ImageFacts:
    if isinstance(problem, Image.UnidentifiedImageError):
        return ImageFacts(None, problem="the file is empty, or no image of a known format")
    return ImageFacts(None, problem=reason(problem), too_large=isinstance(problem, (*_BOMB, TooLarge)))


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Pillow's warnings do not concern the pixels (odd EXIF data, for one), or what is refused here (`MOST_PIXELS`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
