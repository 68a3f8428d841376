"""Image files: decoding to RGB, sizes as shown (EXIF orientation applied), and what is wrong with a file.

Pillow's decoders raise whatever they trip over when a file is corrupt, so everything they raise counts as unreadable.
"""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
from rich.console import Console
from rich.progress import track

from oddetr.common.regular_files import TooLarge, read_regular, reason, require_regular
from oddetr.data.reading_config import AS_USUAL, ReadingConfig

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Usual names of image files, as lower-case extensions."""

_NO_IMAGES = frozenset(
    {".txt", ".xml", ".json", ".yaml", ".yml", ".csv", ".md", ".py", ".zip", ".cache", ".npy", ".pt"}
)
"""Files beside images that need no look at their content."""
_BEGINNING = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|II\*\0|MM\0\*|.{8}WEBP|.{4}ftypavi"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|P[1-6][\n ]|BM.{4}\0{4}",
    re.DOTALL,
)
"""Of JPEG, PNG, GIF, TIFF, WebP, AVIF, JPEG 2000, PPM and its kin, and BMP."""
_HEIC = re.compile(rb".{4}ftyp(hei|hev|mif|msf)", re.DOTALL)
"""The same of photographs as phones keep them; Pillow does not read them."""

_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
"""What a file may hold, whatever its name; others of Pillow's formats call programs (EPS), or take any bytes (TGA)."""
LARGEST = 2**30
"""Bytes of an image file: more than the most pixels take without compression."""
MOST_PIXELS_ALONE = 178_956_970
"""Of an image that is read alone, to look for objects in it: Pillow refuses more by default."""

_BOMB = (Image.DecompressionBombWarning, Image.DecompressionBombError)

Result = TypeVar("Result")


class ImageError(OSError):
    """An image file that is missing, truncated, too large or no image."""


@dataclass(frozen=True)
class ImageFacts:
    """What an image file turned out to be.

    Attributes:
        size: (height, width) in pixels as shown; None where the file cannot be read.
        rotated: whether EXIF orientation swaps the stored width and height.
        turned: whether the image is shown other than stored: turned or mirrored by EXIF orientation.
        digest: of the file's bytes; empty where only the header was read.
        problem: why the file cannot be read; empty where it can.
        too_large: whether the problem is its size.
        deep_colour: whether it is a PNG of 16 bits a colour; false where only the header was read.
        animated: whether it holds several pictures, of which the first counts; false where only the header was read.
    """

    size: tuple[int, int] | None
    rotated: bool = False
    turned: bool = False
    digest: bytes = b""
    problem: str = ""
    too_large: bool = False
    deep_colour: bool = False
    animated: bool = False


def is_image(path: Path) -> bool:
    """Whether a file is an image: by its usual extension, else by its first bytes. A photograph in HEIC counts, so that
    it is missed aloud."""
    extension = path.suffix.lower()
    if extension in EXTENSIONS or extension in _NO_IMAGES:
        return extension in EXTENSIONS
    try:
        require_regular(path)
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return bool(_BEGINNING.match(start) or _HEIC.match(start))


def read_image(path: Path, reading: ReadingConfig = AS_USUAL) -> UInt8[np.ndarray, "height width 3"]:
    """The image as shown: EXIF orientation applied, converted to RGB.

    Palettes and transparency are resolved (colours stay, transparency is dropped); of grey values of 16 bits the upper
    8 of `reading.grey_bits` are taken. Of several pictures in a file (animations, pages) it is the first.

    Raises:
        ImageError: the file is missing, truncated, or no image that can be read.
    """
    return read_reduced(path, None, reading)[0]


def read_reduced(
    path: Path, shorter: int | None, reading: ReadingConfig = AS_USUAL
) -> tuple[UInt8[np.ndarray, "height width 3"], tuple[int, int]]:
    """`read_image`, maybe at reduced size, and the (height, width) at full size as shown.

    A JPEG is decoded at 1/2, 1/4 or 1/8, which takes a fraction of the time, where its shorter side keeps `shorter`
    pixels; other formats, or all if `shorter` is None, are decoded at full size.

    Raises:
        ImageError: as `read_image`.
    """
    try:
        with _opened(path, max(MOST_PIXELS_ALONE, reading.most_pixels)) as image:
            size = _facts(image, reading).size
            reduced = shorter is not None and image.draft(None, (shorter, shorter)) is not None
            pixels = _rgb(image, reading)
            return pixels, size if reduced and size else (pixels.shape[0], pixels.shape[1])
    except Exception as problem:
        found = _unreadable(problem, path).problem
        gone = isinstance(problem, FileNotFoundError) and [folder for folder in path.parents if not folder.exists()]
        if gone:
            raise ImageError(f"Cannot read the image {path}: there is no {gone[-1]}. Bring it back.") from problem
        raise ImageError(f"Cannot read the image {path}: {found}. Restore the file from its source.") from problem


def read_size(path: Path, reading: ReadingConfig = AS_USUAL) -> ImageFacts:
    """Size and orientation, from the file's header alone; too large, if it has more than `reading.most_pixels`."""
    try:
        with _opened(path, reading.most_pixels) as image:
            return _facts(image, reading)
    except Exception as problem:
        return _unreadable(problem, path)


def decode(path: Path, reading: ReadingConfig = AS_USUAL) -> ImageFacts:
    """Size, orientation and digest; the file is decoded to its last pixel."""
    try:
        content = read_regular(path, LARGEST)
        _allow(reading.most_pixels)
        with _bounded(Image.open(io.BytesIO(content), formats=_FORMATS), reading.most_pixels) as image:
            facts = _facts(image, reading)
            animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            height, width, _ = _rgb(image, reading).shape
    except Exception as problem:
        return _unreadable(problem, path)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    deep_colour = content.startswith(b"\x89PNG") and content[24:25] == b"\x10" and content[25:26] in b"\2\6"
    return replace(facts, size=(height, width), digest=digest, deep_colour=deep_colour, animated=animated)


def grey_bits(path: Path) -> int:
    """Bits of the values of a grey image of 16 bits, but for one in a thousand, which may be dead pixels; at least 1.
    0 for other images, and for what cannot be read."""
    try:
        with _opened(path, MOST_PIXELS_ALONE) as image:
            if not _is_deep(image):
                return 0
            return max(1, int(np.quantile(np.asarray(image), 0.999, method="higher")).bit_length())
    except Exception:
        return 0


def map_images(
    function: Callable[[Path], Result], paths: Sequence[Path], console: Console | None = None, title: str = "Images"
) -> list[Result]:
    """`function` of every path, in order, by a pool of threads; shows progress on `console` if it is a terminal."""
    # Pillow's warnings do not concern the pixels (odd EXIF data, for one), or what is refused here (`most_pixels`).
    with (
        warnings.catch_warnings(action="ignore"),
        ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool,
    ):
        results: Iterator[Result] = pool.map(function, paths)
        if console is None or not console.is_terminal:
            return list(results)
        return list(track(results, title, total=len(paths), console=console, transient=True))


def _opened(path: Path, most: int) -> Image.Image:
    require_regular(path, LARGEST)
    _allow(most)
    return _bounded(Image.open(path, formats=_FORMATS), most)


def _allow(most: int) -> None:
    """Let Pillow open images of so many pixels: it refuses twice its own limit."""
    if Image.MAX_IMAGE_PIXELS is not None and most > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most // 2 + 1


def _bounded(image: Image.Image, most: int) -> Image.Image:
    if image.width * image.height > most:
        image.close()
        raise TooLarge(f"it has {image.width} x {image.height} pixels; at most {most:,} are read")
    return image


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _rgb(image: Image.Image, reading: ReadingConfig) -> UInt8[np.ndarray, "height width 3"]:
    image.load()
    if not reading.ignore_exif and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if _is_deep(image):
        return _eight_bits(np.asarray(image), reading.grey_bits or 16)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, which have no agreed range")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _eight_bits(pixels: np.ndarray, bits: int) -> UInt8[np.ndarray, "height width 3"]:
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError("its pixels do not fit into 16 bits")
    upper = np.minimum(pixels >> (bits - 8), 255).astype(np.uint8)
    return np.repeat(upper[:, :, None], 3, axis=2)


def _facts(image: Image.Image, reading: ReadingConfig) -> ImageFacts:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    rotated = orientation in range(5, 9)
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # of these, Pillow has swapped the sides already
        width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
    as_stored = not rotated or reading.ignore_exif
    turned = orientation in range(2, 9) and not reading.ignore_exif
    return ImageFacts((height, width) if as_stored else (width, height), rotated, turned)


def _unreadable(problem: BaseException, path: Path) -> ImageFacts:
    if isinstance(problem, Image.UnidentifiedImageError):
        why = "the file is empty, or no image of a known format"
        with suppress(OSError), path.open("rb") as file:
            start = file.read(64)
            if _HEIC.match(start):
                why = "it is a photograph in HEIC, which is not read: save it as JPEG, which may turn it upright"
            elif start.startswith(b"version https://git-lfs"):
                why = "it is a Git LFS pointer, not the image: run git lfs pull"
        return ImageFacts(None, problem=why)
    return ImageFacts(None, problem=reason(problem), too_large=isinstance(problem, (*_BOMB, TooLarge)))
