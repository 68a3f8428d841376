"""Broken data sets, built by code: what is wrong with each, what is said of it, and what remains.

`CASES` has them all. Each builds a folder that is sound but for one thing.
"""

import io
import json
import os
import socket
import struct
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oddetr.data.doctor.check import CheckReport
from oddetr.data.doctor.faults import KINDS
from tests.data.builders import CATS, coco, coco_image, coco_object, voc, voc_xml, write_image, yolo

TRAIN = "annotations/instances_train.json"
NFC, NFD = unicodedata.normalize("NFC", "Fähre"), unicodedata.normalize("NFD", "Fähre")
LABEL = "0 0.5 0.5 0.25 0.5\n"
SECRET = "0 0.5 0.5 0.25 s3cret\n"

Build = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """A broken data set.

    Attributes:
        name: what is wrong.
        build: makes `data` in an empty folder, which is the data set's.
        kinds: the faults that are found, and how many, but for classes with few examples.
        left: images and objects that are read of each split; None where nothing can be.
        said: words of the report.
        unsaid: words that must not stand in it.
        look: a closer look at what was read.
        user: whether the rights of root would hide what is wrong.
    """

    name: str
    build: Build
    kinds: dict[str, int] = field(default_factory=dict)
    left: dict[str, tuple[int, int]] | None = None
    said: str = ""
    unsaid: str = ""
    look: Callable[[CheckReport], None] | None = None
    user: bool = False

    @property
    def wrong(self) -> bool:
        """Whether any of it is an error, which `check` and training end in."""
        return any(KINDS[kind].severity == "error" for kind in self.kinds)


CASES: list[Case] = []
WHOLE = {"train": (2, 2), "val": (1, 1)}
FIRST = {"train": (1, 1), "val": (1, 1)}
ONLY_VAL = {"val": (1, 1)}


def add(name: str, build: Build, left: dict[str, tuple[int, int]] | None, *kinds: str, **more: Any) -> None:
    CASES.append(Case(name, build, {kind: kinds.count(kind) for kind in kinds}, left, **more))


# Images: train/b of a COCO set, with one object on it.


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def picture(mode: str = "RGB", width: int = 64, height: int = 48) -> Image.Image:
    """Colours that run from corner to corner, which lossy formats keep."""
    rows, columns = np.linspace(0, 255, height), np.linspace(0, 255, width)
    pixels = np.stack([*np.meshgrid(columns, rows), np.zeros((height, width))], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def with_image(content: bytes | None, name: str = "b.jpg", size: tuple[int, int] = (64, 48)) -> Build:
    def build(data: Path) -> None:
        coco(data, [coco_object(5, 2)], [coco_image(1, "a.jpg"), coco_image(2, name, *size)], written=False)
        write_image(data / "train/a.jpg")
        if content is not None:
            (data / "train" / name).write_bytes(content)

    return build


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, rows: bytes | None = None) -> bytes:
    """A black PNG of one bit per pixel; all of it, or only these compressed rows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    body = zlib.compress(bytes(1 + (width + 7) // 8) * height) if rows is None else rows
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def frames(format: str, **options: Any) -> bytes:
    return saved(picture(), format, save_all=True, append_images=[picture().rotate(180)], **options)


def first_frame(report: CheckReport) -> None:
    shown = data_of(report, "train").sample(1).image.astype(int)
    assert np.abs(shown - np.asarray(picture())).mean() < 30 < np.abs(shown[::-1, ::-1] - np.asarray(picture())).mean()


def data_of(report: CheckReport, split: str) -> Any:
    assert report.folder is not None
    return report.folder.splits[split]


def grey(report: CheckReport) -> None:
    assert np.abs(data_of(report, "train").sample(1).image.astype(int) - 128).max() <= 2


WHITE_LEFT = np.zeros((48, 64, 3), dtype=np.uint8)
WHITE_LEFT[:, :32] = 255


def under_the_box(report: CheckReport) -> None:
    """The white half, which the EXIF orientation turns to the top, is under the box."""
    sample = data_of(report, "train").sample(1)
    x0, y0, x1, y1 = sample.boxes[0].astype(int)
    assert sample.image[y0:y1, x0:x1].min() > 240
    assert sample.image.shape == (64, 48, 3)


def turned(data: Path) -> None:
    coco(data, [coco_object(5, 2, (0, 0, 48, 32))], [coco_image(1, "a.jpg"), coco_image(2, "b.png", 48, 64)])
    Image.fromarray(WHITE_LEFT).save(data / "train/b.png", exif=exif(6))


def turned_yolo(data: Path) -> None:
    yolo(data, {"train/a.jpg": LABEL, "train/b.png": "0 0.5 0.25 1 0.5\n", "val/v.jpg": LABEL})
    Image.fromarray(WHITE_LEFT).save(data / "images/train/b.png", exif=exif(6))


for format, name in (("JPEG", "b.jpg"), ("PNG", "b.png"), ("WEBP", "b.webp"), ("TIFF", "b.tif"), ("BMP", "b.bmp")):
    whole = saved(picture(), format)
    add(f"image: truncated {format}", with_image(whole[: len(whole) // 2], name), WHOLE, "unreadable-image")
add("image: zero bytes", with_image(b""), WHOLE, "unreadable-image", said="the file is empty")
add("image: text named .jpg", with_image(b"no image at all"), WHOLE, "unreadable-image")
add("image: a web page named .jpg", with_image(b"<!DOCTYPE html><html>404</html>"), WHOLE, "unreadable-image")
add(
    "image: SVG named .png",
    with_image(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "b.png"),
    WHOLE,
    "unreadable-image",
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n"
add("image: EPS named .jpg, which Pillow gives to a program", with_image(EPS), WHOLE, "unreadable-image")
add("image: PNG named .jpg", with_image(saved(picture(), "PNG")), WHOLE)
add("image: JPEG named .png", with_image(saved(picture(), "JPEG"), "b.png"), WHOLE)
add("image: extension in capitals", with_image(saved(picture(), "JPEG"), "b.JPEG"), WHOLE)
HUGE = png(100_000, 100_000, rows=zlib.compress(b""))
add("image: PNG of 100000x100000", with_image(HUGE, "b.png", (100_000, 100_000)), WHOLE, "image-too-large")
BOMB = png(9_500, 9_500)
add("image: decompression bomb", with_image(BOMB, "b.png", (9_500, 9_500)), WHOLE, "image-too-large")
TEXT = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(5_000_000)))
add("image: PNG whose text is a decompression bomb", with_image(png(64, 48, TEXT), "b.png"), WHOLE, "unreadable-image")
WRONG = bytearray(saved(picture(), "PNG"))
WRONG[20] ^= 1
add("image: PNG with a flipped bit", with_image(bytes(WRONG), "b.png"), WHOLE, "unreadable-image")
add("image: PNG of no pixel", with_image(png(0, 0), "b.png"), WHOLE, "unreadable-image")
add("image: animated GIF", with_image(frames("GIF"), "b.gif"), WHOLE, "animated-image", look=first_frame)
add("image: animated WebP", with_image(frames("WEBP"), "b.webp"), WHOLE, "animated-image", look=first_frame)
add("image: animated PNG", with_image(frames("PNG"), "b.png"), WHOLE, "animated-image", look=first_frame)
add("image: TIFF of two pages", with_image(frames("TIFF"), "b.tif"), WHOLE, "animated-image", look=first_frame)
add("image: JPEG with a preview (MPO)", with_image(frames("MPO")), WHOLE, look=first_frame)
SIXTEEN = Image.fromarray(np.full((48, 64), 128 << 8, dtype=np.uint16))
add("image: PNG of 16 bits", with_image(saved(SIXTEEN, "PNG"), "b.png"), WHOLE, look=grey)
add("image: TIFF of 16 bits", with_image(saved(SIXTEEN, "TIFF"), "b.tif"), WHOLE, look=grey)
WIDE = Image.fromarray(np.full((48, 64), 1 << 20, dtype=np.int32))
add("image: TIFF beyond 16 bits", with_image(saved(WIDE, "TIFF"), "b.tif"), WHOLE, "unreadable-image")
FLOATS = Image.fromarray(np.zeros((48, 64), dtype=np.float32))
add("image: TIFF of floats", with_image(saved(FLOATS, "TIFF"), "b.tif"), WHOLE, "unreadable-image", said="range")
GREY = Image.new("RGB", (64, 48), (128, 128, 128))
add("image: CMYK", with_image(saved(GREY.convert("CMYK"), "JPEG")), WHOLE, look=grey)
add("image: palette with transparency", with_image(saved(picture("P"), "PNG", transparency=bytes(256)), "b.png"), WHOLE)
add("image: turned by EXIF, boxes of what is shown", turned, WHOLE, look=under_the_box)
add("image: turned by EXIF, relative boxes of what is shown", turned_yolo, WHOLE, look=under_the_box)
TURNED = saved(picture(), "JPEG", exif=exif(6))
add("image: turned by EXIF, boxes of what is stored", with_image(TURNED), WHOLE, "wrong-size", said="EXIF orientation")
add("image: EXIF orientation 99", with_image(saved(picture(), "JPEG", exif=exif(99))), WHOLE)
NO_EXIF = saved(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(9))
add("image: EXIF that leads nowhere", with_image(NO_EXIF), WHOLE)
add("image: colour profile that is none", with_image(saved(picture(), "JPEG", icc_profile=b"nonsense")), WHOLE)
add("image: of another size than told", with_image(saved(picture(), "JPEG"), size=(32, 24)), WHOLE, "wrong-size")


def in_place_of_b(make: Callable[[Path], Any]) -> Build:
    def build(data: Path) -> None:
        with_image(None)(data)
        make(data / "train/b.jpg")

    return build


def make_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def sparse(size: int) -> Callable[[Path], Any]:
    return lambda path: (path.touch(), os.truncate(path, size))


add("image: a folder named .jpg", in_place_of_b(Path.mkdir), WHOLE, "unreadable-image", said="it is a folder")
add("image: a pipe named .jpg", in_place_of_b(os.mkfifo), WHOLE, "unreadable-image", said="it is a pipe")
add("image: a socket named .jpg", in_place_of_b(make_socket), WHOLE, "unreadable-image", said="it is a socket")
add("image: a file of a gigabyte", in_place_of_b(sparse(2**30 + 1)), WHOLE, "image-too-large")
add(
    "image: a link to nothing",
    in_place_of_b(lambda path: path.symlink_to("gone.jpg")),
    WHOLE,
    "unreadable-image",
    said="missing",
)
add("image: a link to itself", in_place_of_b(lambda path: path.symlink_to("b.jpg")), WHOLE, "unreadable-image")
add(
    "image: no right to read it",
    in_place_of_b(lambda path: (write_image(path), path.chmod(0))),
    WHOLE,
    "unreadable-image",
    said="Permission denied",
    user=True,
)

# COCO: the text of the training annotations.


def with_text(text: str | bytes) -> Build:
    def build(data: Path) -> None:
        coco(data)
        (data / TRAIN).write_bytes(text if isinstance(text, bytes) else text.encode())

    return build


def content(**changes: Any) -> dict[str, Any]:
    images = [coco_image(1, "a.jpg"), coco_image(2, "b.jpg")]
    return {"images": images, "annotations": [coco_object(90, 1), coco_object(5, 2)], "categories": CATS} | changes


GOOD = json.dumps(content())
MALFORMED: tuple[tuple[str, str | bytes, str], ...] = (
    ("empty", "", "Expecting value"),
    ("truncated", GOOD[: len(GOOD) // 2], ""),
    ("a list", "[]", "no list"),
    ("null", "null", "no list"),
    ("a web page", "<!DOCTYPE html>\n<html>Sign in</html>", "HTML"),
    ("nested 100,000 deep", "[" * 100_000, "nested too deeply"),
    ("nested 100,000 deep in a record", GOOD.replace("[8, 8, 20, 16]", "[" * 10**5 + "]" * 10**5, 1), "nested"),
    ("not UTF-8", b'{"images": "\xff\xfe\xfd"}', "decode"),
    ("zeros", bytes(1000), ""),
    ("annotations twice", '{"annotations": [],' + GOOD[1:], "'annotations' stands twice"),
    ("a key of a record twice", GOOD.replace('"image_id": 2', '"image_id": 1, "image_id": 2'), "stands twice"),
    ("images are a table", json.dumps(content(images={})), 'no list "images"'),
    ("annotations are missing", json.dumps({"images": [], "categories": CATS}), 'no list "annotations"'),
    ("a number of 5,000 digits", GOOD.replace('"id": 5', '"id": ' + "9" * 5000), "digits"),
)
for what, text, said in MALFORMED:
    add(f"COCO: {what}", with_text(text), ONLY_VAL, "malformed-file", said=said)
add("COCO: UTF-16", with_text(GOOD.encode("utf-16")), WHOLE)
add("COCO: byte order mark", with_text(GOOD.encode("utf-8-sig")), WHOLE)
add("COCO: a results file in place of annotations", with_text('[{"image_id": 1}]'), ONLY_VAL, "malformed-file")


def with_object(**changes: Any) -> Build:
    return with_text(json.dumps(content(annotations=[coco_object(90, 1), coco_object(5, 2) | changes])))


BOXES: dict[str, tuple[Any, str]] = {
    "NaN": ([float("nan"), 8, 20, 16], "not-a-number"),
    "Infinity": ([8, 8, float("inf"), 16], "not-a-number"),
    "strings": (["8", "8", "20", "16"], "not-a-number"),
    "true and false": ([True, False, 20, 16], "not-a-number"),
    "an integer of 400 digits": ([8, 8, 10**400, 16], "not-a-number"),
    "numbers whose sum is infinite": ([1e308, 8, 1e308, 16], "not-a-number"),
    "three numbers": ([8, 8, 20], "not-a-number"),
    "five numbers": ([8, 8, 20, 16, 1], "not-a-number"),
    "a table": ({"x": 8, "y": 8, "w": 20, "h": 16}, "not-a-number"),
    "a list of lists": ([[8], [8], [20], [16]], "not-a-number"),
    "null": (None, "not-a-number"),
    "negative width": ([8, 8, -5, 16], "inverted-box"),
    "no area": ([8, 8, 0, 16], "zero-area-box"),
    "outside the image": ([100, 100, 20, 16], "box-outside"),
    "outside the image, far": ([1e30, 1e30, 1e31, 1e31], "box-outside"),
}
for what, (box, kind) in BOXES.items():
    add(f"COCO box: {what}", with_object(bbox=box), {"train": (2, 1), "val": (1, 1)}, kind)
add("COCO box: partly outside", with_object(bbox=[50, 40, 60, 60]), WHOLE, "clipped-box")
add(
    "COCO box: 1e999",
    with_text(GOOD.replace("[8, 8, 20, 16]", "[8, 8, 1e999, 16]", 1)),
    FIRST | {"train": (2, 1)},
    "not-a-number",
)
for what, changes in {
    "category 5": {"category_id": 5},
}.items():
    add(f"COCO: an object of {what}", with_object(**changes), {"train": (2, 1), "val": (1, 1)}, "unknown-category")
add("COCO: an object of no image", with_object(image_id=9), {"train": (2, 1), "val": (1, 1)}, "unknown-image")
for what, changes in {
    "a text as image id": {"image_id": "2"},
    "true as category": {"category_id": True},
    "an id of 30 digits": {"id": 10**30},
    "NaN as id": {"id": float("nan")},
    "iscrowd yes": {"iscrowd": "yes"},
    "iscrowd a list": {"iscrowd": [1]},
}.items():
    add(f"COCO: {what}", with_object(**changes), {"train": (2, 1), "val": (1, 1)}, "malformed-record")
for what, area in {
    "NaN": float("nan"),
    "text": "wide",
    "huge": 10**400,
    "negative": -1,
    "infinite": float("inf"),
}.items():
    add(f"COCO: an area that is {what}", with_object(area=area), WHOLE)
add("COCO: annotation id twice", with_object(id=90), {"train": (2, 1), "val": (1, 1)}, "duplicate-annotation-id")


def with_images(*images: Any, kept: int = 2) -> Build:
    """The images in place of b."""
    return with_text(json.dumps(content(images=[coco_image(1, "a.jpg"), *images])))


add(
    "COCO: image id twice",
    with_images(coco_image(1, "b.jpg")),
    FIRST,
    "duplicate-image-id",
    "unknown-image",
    "unlisted-image",
)
add("COCO: file under two ids", with_images(coco_image(2, "a.jpg")), FIRST, "duplicate-file-name", "unlisted-image")
for what, image in {
    "no file name": {"id": 2},
    "a number as file name": {"id": 2, "file_name": 7},
    "a text as id": {"id": "2", "file_name": "b.jpg"},
    "null": None,
    "a list": [2, "b.jpg"],
}.items():
    kinds = ("malformed-record", "unknown-image", "unlisted-image")
    add(f"COCO: an image that is {what}", with_images(image), FIRST, *kinds)
for what, name in {
    "a zero byte": "b\0.jpg",
    "half a character": "\ud800.jpg",
    "5,000 characters": "b" * 5000 + ".jpg",
    "a folder of 5,000 characters": "b" * 5000 + "/b.jpg",
    "an escape sequence": "\x1b[2Jb.jpg",
    "a folder with a zero byte": "b\0/b.jpg",
    "another case": "B.JPG",
}.items():
    said = "there is train/b.jpg" if name == "B.JPG" else ""
    build = with_images(coco_image(2, name))
    add(f"COCO: a file name with {what}", build, FIRST, "missing-image", "unlisted-image", said=said, unsaid="\x1b")
for what, name in {"absolute": "/etc/passwd", "..": "../../b.jpg", "a drive": "C:\\b.jpg"}.items():
    build = with_images(coco_image(2, name))
    add(f"COCO: a path that is {what}", build, FIRST, "outside-folder", "unlisted-image", said="--allow-outside")
for what, width in {
    "a text": "64",
    "a fraction": 64.5,
    "huge": 10**30,
    "2**61": 2**61,
    "negative": -64,
    "NaN": float("nan"),
}.items():
    add(f"COCO: a width that is {what}", with_images(coco_image(2, "b.jpg", width)), WHOLE)


def with_names(*names: str, disk: tuple[str, ...] | None = None) -> Build:
    """Images of these names in COCO's JSON, and on the disk, each with an object."""

    def build(data: Path) -> None:
        images = [coco_image(index, name) for index, name in enumerate(names, start=1)]
        objects = [coco_object(index, index) for index in range(2, len(names) + 1)]
        coco(data, objects, images, written=False)
        for index, name in enumerate(names if disk is None else disk):
            file = write_image(data / f"train/{index}.jpg")
            file.rename(data / "train" / name)

    return build


add("names: not Latin", with_names("кот 1.jpg", "ねこ/猫.jpg"[3:], "قطة.jpg"), {"train": (3, 3), "val": (1, 1)})
add(
    "names: composed in the JSON, decomposed on disk",
    with_names(f"{NFC}.jpg", "b.jpg", disk=(f"{NFD}.jpg", "b.jpg")),
    WHOLE,
)
add("names: composed and decomposed side by side", with_names(f"{NFC}.jpg", f"{NFD}.jpg"), WHOLE)
add("names: the same but for capitals", with_names("a.jpg", "A.jpg"), WHOLE)
add("names: 250 characters", with_names("a.jpg", "b" * 250 + ".jpg"), WHOLE)
add("names: an escape sequence on disk", with_names("a.jpg", "\x1b[2J.jpg"), FIRST, "unreadable-name", unsaid="\x1b")
add("names: a line break on disk", with_names("a.jpg", "b\nc.jpg"), FIRST, "unreadable-name", said="b\\nc.jpg")
add("names: rich markup", with_names("a.jpg", "[bold]b.jpg"), WHOLE)
for what, categories, kind in (
    ("a name twice", [*CATS, {"id": 9, "name": "cat"}], "classes"),
    ("an id twice", [*CATS, {"id": 7, "name": "owl"}], "classes"),
    ("none", [], "classes"),
):
    build = with_text(json.dumps(content(categories=categories)))
    add(
        f"COCO categories: {what}",
        lambda data, build=build: (build(data), (data / "annotations/instances_val.json").unlink()),
        None,
        kind,
    )
ESCAPE = content(categories=[*CATS, {"id": 9, "name": "\x1b[31mred"}])
add("COCO categories: an escape sequence", with_text(json.dumps(ESCAPE)), WHOLE, "malformed-record", unsaid="\x1b[31m")
add(
    "COCO categories: another table in val",
    with_text(json.dumps(content(categories=[{"id": 3, "name": "cat"}]))),
    WHOLE,
    "classes",
)


def in_place_of_json(make: Callable[[Path], Any]) -> Build:
    return lambda data: (coco(data), (data / TRAIN).unlink(), make(data / TRAIN))


add("COCO: a pipe", in_place_of_json(os.mkfifo), ONLY_VAL, "malformed-file", said="it is a pipe")
add("COCO: a file of 16 gigabytes", in_place_of_json(sparse(2**34 + 1)), ONLY_VAL, "malformed-file", said="bytes")
add(
    "COCO: no right to read the annotations",
    in_place_of_json(lambda path: (path.write_text(GOOD), path.chmod(0))),
    ONLY_VAL,
    "malformed-file",
    said="Permission denied",
    user=True,
)
add(
    "COCO: no right to list the images",
    lambda data: (coco(data, [coco_object(5, 2)]), (data / "train").chmod(0)),
    ONLY_VAL,
    "unreadable-folder",
    "empty-split",
    said="chmod",
    user=True,
)
MANY = 20_000


def many_coco(count: int) -> Build:
    """So many objects on b, and one on a."""

    def build(data: Path) -> None:
        coco(data)
        record = '{"id": %d, "image_id": 2, "category_id": 3, "bbox": [8, 8, 20, 16], "iscrowd": 0}'
        objects = ",".join([json.dumps(coco_object(count, 1)), *(record % index for index in range(count))])
        plain = json.dumps(content(annotations=[]))
        (data / TRAIN).write_text(plain.replace('"annotations": []', f'"annotations": [{objects}]'))

    return build


add("COCO: too many objects on an image", many_coco(MANY), {"train": (2, MANY + 1), "val": (1, 1)}, "crowded-image")


# Links. The data set's folder is `data`; `elsewhere` lies beside it.


def moved(path: Path, back: str | None = None) -> None:
    """Moves a file or folder out of the data set, and leaves a link to it."""
    root = next(parent for parent in path.parents if parent.name == "data")
    away = root.parent / "elsewhere" / path.name
    away.parent.mkdir(exist_ok=True)
    path.rename(away)
    path.symlink_to(back or away)


def linked(build: Build, *paths: str) -> Build:
    return lambda data: (build(data), *(moved(data / path) for path in paths))


SOUND = with_text(GOOD)
add("link: an image outside", linked(SOUND, "train/b.jpg"), FIRST, "outside-folder", said="train/b.jpg: is a link to /")
add(
    "link: the images' folder outside",
    linked(SOUND, "train"),
    ONLY_VAL,
    "outside-folder",
    "empty-split",
    said="train: is a link to /",
)
add(
    "link: annotations outside",
    linked(SOUND, TRAIN),
    ONLY_VAL,
    "outside-folder",
    "missing-split",
    said="--allow-outside true",
)
add("link: the annotations' folder outside", linked(SOUND, "annotations"), None, "outside-folder", "layout")
add("link: a device", in_place_of_b(lambda path: path.symlink_to("/dev/zero")), FIRST, "outside-folder")
add(
    "link: by way of a folder that leads out",
    lambda data: (SOUND(data), moved(data / "train"), (data / "images").symlink_to("train")),
    ONLY_VAL,
    "outside-folder",
    "empty-split",
)
add(
    "link: an image inside",
    lambda data: (
        SOUND(data),
        (data / "train/b.jpg").rename(data / "c.jpg"),
        (data / "train/b.jpg").symlink_to("../c.jpg"),
    ),
    WHOLE,
)
add(
    "link: the images' folder inside",
    lambda data: (SOUND(data), (data / "train").rename(data / "pictures"), (data / "train").symlink_to("pictures")),
    WHOLE,
)
add(
    "link: the data folder itself",
    lambda data: (SOUND(data), data.rename(data.with_name("real")), data.symlink_to("real")),
    WHOLE,
)
add(
    "link: another one that nothing needs",
    lambda data: (SOUND(data), (data / "runs").symlink_to("/tmp"), (data / "train_runs").symlink_to("/tmp")),
    WHOLE,
)

# VOC: three images, a and b of train, c of val; what is written is of b.

LISTS = {"train": ["a", "b"], "val": ["c"]}
OBJECT = (
    "<object><name>cat</name><bndbox><xmin>11</xmin><ymin>11</ymin><xmax>30</xmax><ymax>30</ymax></bndbox></object>"
)
XML = f"<annotation>{OBJECT}</annotation>"
EMPTY = {"train": (2, 1), "val": (1, 1)}


def with_xml(text: str | bytes) -> Build:
    def build(data: Path) -> None:
        voc(data, LISTS)
        (data / "Annotations/b.xml").write_bytes(text if isinstance(text, bytes) else text.encode())

    return build


def laughs(levels: int = 9) -> str:
    entities = '<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, levels + 1))
    return f"<!DOCTYPE annotation [{entities}]>{XML.replace('cat', f'&l{levels};')}"


FOREIGN = f'<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/passwd">]>{XML.replace("cat", "&x;")}'
for what, text, said in (
    ("empty", "", "no element found"),
    ("truncated", XML[:60], ""),
    ("a web page", "<html><body>Sign in</body></html>", "<html>"),
    ("JSON", GOOD, ""),
    ("a billion laughs", laughs(), "document type"),
    ("an external entity", FOREIGN, "document type"),
    ("an entity that is not declared", XML.replace("cat", "&x;"), "undefined"),
    ("an unknown encoding", f'<?xml version="1.0" encoding="klingon"?>{XML}', ""),
    ("not UTF-8", XML.encode().replace(b"cat", b"\xff\xfe"), ""),
    ("a zero byte", XML.replace("cat", "c\0t"), ""),
):
    add(f"VOC: {what}", with_xml(text), EMPTY, "malformed-file", said=said, unsaid="root:")
add("VOC: nested 100,000 deep", with_xml(f"<annotation>{'<a>' * 10**5}{'</a>' * 10**5}{OBJECT}</annotation>"), WHOLE)
add("VOC: UTF-16", with_xml(f'<?xml version="1.0" encoding="UTF-16"?>{XML}'.encode("utf-16")), WHOLE)
for what, old, new, kind in (
    ("NaN", "30", "nan", "not-a-number"),
    ("infinite", "30", "inf", "not-a-number"),
    ("words", "30", "thirty", "not-a-number"),
    ("1_1", "11", "1_1", "not-a-number"),
    ("missing", "<xmax>30</xmax>", "", "not-a-number"),
    ("twice", "<xmax>30</xmax>", "<xmax>30</xmax><xmax>40</xmax>", "malformed-record"),
    ("inverted", "30", "2", "inverted-box"),
    ("without area", "30", "11", "zero-area-box"),
    ("outside", "<xmin>11</xmin><ymin>11</ymin><xmax>30", "<xmin>100</xmin><ymin>11</ymin><xmax>130", "box-outside"),
):
    add(f"VOC box: {what}", with_xml(XML.replace(old, new)), EMPTY, kind)
add("VOC box: partly outside", with_xml(XML.replace("30", "90")), WHOLE, "clipped-box")
for what, text in (
    ("no name", XML.replace("<name>cat</name>", "")),
    ("an empty name", XML.replace("cat", " ")),
    ("two names", XML.replace("<name>cat</name>", "<name>cat</name><name>dog</name>")),
    ("two boxes", XML.replace("</object>", "<bndbox/></object>")),
    ("no box", "<annotation><object><name>cat</name></object></annotation>"),
    ("a line break in its name", XML.replace("cat", "c\nt")),
):
    add(f"VOC: an object with {what}", with_xml(text), EMPTY, "malformed-record")
for width in ("1e300", "1e999", "nan", "-64", "wide", "0"):
    size = f"<size><width>{width}</width><height>48</height></size>"
    add(f"VOC: a width of {width}", with_xml(XML.replace("<object>", size + "<object>", 1)), WHOLE)
add(
    "VOC: XML of 64 megabytes",
    lambda data: (voc(data, LISTS), sparse(2**26 + 1)(data / "Annotations/b.xml")),
    EMPTY,
    "malformed-file",
)
add(
    "VOC: XML that is a pipe",
    lambda data: (voc(data, LISTS), (data / "Annotations/b.xml").unlink(), os.mkfifo(data / "Annotations/b.xml")),
    EMPTY,
    "malformed-file",
)


def with_list(content: bytes) -> Build:
    return lambda data: (voc(data, LISTS), (data / "ImageSets/Main/train.txt").write_bytes(content))


add("VOC list: line ends of Windows", with_list(b"a\r\nb\r\n"), WHOLE)
add(
    "VOC list: UTF-16",
    with_list("a\nb\n".encode("utf-16")),
    ONLY_VAL,
    "malformed-file",
    "empty-split",
    *["unlisted-image"] * 2,
)
add("VOC list: leads out", with_list(b"a\nb\n../../etc/passwd\n"), WHOLE, "missing-image")
add("VOC list: a name twice", with_list(b"a\nb\na\n"), WHOLE, "repeated-image")
add("VOC list: a name of 5,000 characters", with_list(b"a\nb\n" + b"n" * 5000), WHOLE, "missing-image")
add(
    "VOC: image composed, XML decomposed",
    lambda data: (
        voc(data, {"train": ["a", NFC], "val": ["c"]}),
        (data / f"Annotations/{NFC}.xml").rename(data / f"Annotations/{NFD}.xml"),
    ),
    WHOLE,
)
add(
    "VOC: two images of one XML file",
    lambda data: (voc(data, LISTS), write_image(data / "JPEGImages/b.png")),
    FIRST,
    *["ambiguous-image"] * 3,
)
add(
    "VOC: an image without XML",
    lambda data: (voc(data, LISTS), (data / "Annotations/b.xml").unlink()),
    EMPTY,
    "image-without-label",
)
add(
    "VOC: XML without an image",
    lambda data: (voc(data, LISTS), voc_xml(data / "Annotations/d.xml", [])),
    WHOLE,
    "label-without-image",
)
SOUND_VOC = with_xml(XML)
add(
    "link: VOC images outside",
    linked(SOUND_VOC, "JPEGImages"),
    None,
    "outside-folder",
    *["label-without-image"] * 3,
    *["missing-image"] * 3,
    "classes",
)
add(
    "link: one VOC image outside",
    linked(SOUND_VOC, "JPEGImages/b.jpg"),
    FIRST,
    "outside-folder",
    "missing-image",
    "label-without-image",
)
add("link: XML outside", linked(SOUND_VOC, "Annotations/b.xml"), EMPTY, "outside-folder", "image-without-label")
add(
    "link: a VOC list outside",
    linked(SOUND_VOC, "ImageSets/Main/train.txt"),
    ONLY_VAL,
    "outside-folder",
    "empty-split",
    *["unlisted-image"] * 2,
)
add(
    "link: a folder of VOC images that is its own",
    lambda data: (voc(data, LISTS), (data / "JPEGImages/more").symlink_to("..")),
    WHOLE,
)

# YOLO: a and b of train, v of val; what is written is of b.

LABELS = {"train/a.jpg": LABEL, "train/b.jpg": LABEL, "val/v.jpg": LABEL}


def with_label(text: str | bytes) -> Build:
    def build(data: Path) -> None:
        yolo(data, LABELS)
        (data / "labels/train/b.txt").write_bytes(text if isinstance(text, bytes) else text.encode())

    return build


for what, text in (
    ("tabs", "0\t0.5\t0.5\t0.25\t0.5\n"),
    ("line ends of Windows", "0 0.5 0.5 0.25 0.5\r\n\r\n"),
    ("a byte order mark", "\ufeff" + LABEL),
    ("a polygon", "0 0.25 0.25 0.75 0.25 0.5 0.75\n"),
    ("a score", "0 0.5 0.5 0.25 0.5 0.9\n"),
    ("no line end", "0 0.5 0.5 0.25 0.5"),
):
    add(f"YOLO: a label with {what}", with_label(text), WHOLE)
for what, text, kind in (
    ("UTF-16", LABEL.encode("utf-16"), "malformed-file"),
    ("Latin-1", b"\xe9 0.5 0.5 0.25 0.5", "malformed-file"),
    ("a zero byte in a number", "0 0.5 0.5 0.25 0.5\0", "not-a-number"),
    ("zero bytes", bytes(100), "unknown-category"),
    ("NaN", "0 nan 0.5 0.25 0.5", "not-a-number"),
    ("infinity", "0 inf 0.5 0.25 0.5", "not-a-number"),
    ("1e999", "0 1e999 0.5 0.25 0.5", "not-a-number"),
    ("words", "0 left 0.5 0.25 0.5", "not-a-number"),
    ("commas", "0,0.5,0.5,0.25,0.5", "unknown-category"),
    ("decimal commas", "0 0,5 0,5 0,25 0,5", "not-a-number"),
    ("0_5", "0 0_5 0.5 0.25 0.5", "not-a-number"),
    ("three numbers", "0 0.5 0.5 0.25", "malformed-record"),
    ("seven numbers", "0 0.5 0.5 0.25 0.5 0.5 0.5 0.5", "malformed-record"),
    ("only a class", "0", "malformed-record"),
    ("pixels", "0 20 20 10 10", "pixel-coordinates"),
    ("negative width", "0 0.5 0.5 -0.25 0.5", "inverted-box"),
    ("no area", "0 0.5 0.5 0 0.5", "zero-area-box"),
    ("a box outside", "0 1.5 0.5 0.25 0.5", "box-outside"),
    ("class 7", "7 0.5 0.5 0.25 0.5", "unknown-category"),
    ("class -1", "-1 0.5 0.5 0.25 0.5", "unknown-category"),
    ("class 0.5", "0.5 0.5 0.5 0.25 0.5", "unknown-category"),
    ("class 1e999", "1e999 0.5 0.5 0.25 0.5", "unknown-category"),
    ("a class by name", "cat 0.5 0.5 0.25 0.5", "unknown-category"),
):
    add(f"YOLO: a label with {what}", with_label(text), EMPTY, kind)
add("YOLO: a box partly outside", with_label("0 0.9 0.5 0.4 0.5"), WHOLE, "clipped-box")
add(
    "YOLO: labels of 64 megabytes",
    lambda data: (yolo(data, LABELS), sparse(2**26 + 1)(data / "labels/train/b.txt")),
    EMPTY,
    "malformed-file",
)
add("YOLO: too many lines", with_label(LABEL * MANY), {"train": (2, MANY + 1), "val": (1, 1)}, "crowded-image")
add(
    "YOLO: labels that are a folder",
    lambda data: (yolo(data, LABELS | {"train/b.jpg": None}), (data / "labels/train/b.txt").mkdir()),
    EMPTY,
    "malformed-file",
)
add(
    "YOLO: two images of one label file",
    lambda data: (yolo(data, LABELS), write_image(data / "images/train/b.png")),
    {"train": (3, 3), "val": (1, 1)},
    *["ambiguous-image"] * 2,
)
add(
    "YOLO: a GIF, which is not looked for",
    lambda data: (
        yolo(data, LABELS | {"train/b.jpg": None}),
        (data / "images/train/b.jpg").rename(data / "images/train/b.gif"),
        (data / "labels/train/b.txt").write_text(LABEL),
    ),
    FIRST,
    "label-without-image",
)
add(
    "YOLO: label composed, image decomposed",
    lambda data: (
        yolo(data, {f"train/{NFD}.jpg": LABEL, "train/a.jpg": LABEL, "val/v.jpg": LABEL}),
        (data / f"labels/train/{NFD}.txt").rename(data / f"labels/train/{NFC}.txt"),
    ),
    WHOLE,
    "label-without-image",
)
add(
    "YOLO: a name that is no UTF-8",
    lambda data: (
        yolo(data, LABELS),
        (data / "images/train/b.jpg").rename(os.fsdecode(os.fsencode(data / "images/train") + b"/b\xff.jpg")),
    ),
    FIRST,
    "unreadable-name",
    "image-without-label",
    "label-without-image",
    said="\\udcff",
)
PLACES = "train: images/train\nval: images/val\n"


def with_yaml(text: str | bytes) -> Build:
    def build(data: Path) -> None:
        yolo(data, LABELS)
        (data / "data.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())

    return build


BOMB_OF_LISTS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
BOMB_OF_TABLES = "a0: &a0 {x: y}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
ALIAS = "stands for another part of it"
for what, text, kind, said in (
    ("empty", "", "malformed-file", "no keys"),
    ("a list", "- a\n- b\n", "malformed-file", "no keys"),
    ("torn", "names: [cat", "malformed-file", ""),
    ("zeros", bytes(100), "malformed-file", ""),
    ("nested 1,000 deep", "names: " + "[" * 1000 + "]" * 1000, "malformed-file", "nested too deeply"),
    ("of a megabyte", "# " + "x" * 2**20, "malformed-file", "bytes"),
    ("two documents", f"{PLACES}names: [cat]\n---\n{PLACES}", "malformed-file", ""),
    ("a key twice", f"{PLACES}names: [cat, dog]\nnames: [dog, cat]\n", "malformed-file", "stands twice"),
    ("an id twice", f"{PLACES}names: {{0: cat, 0: dog}}\n", "malformed-file", "stands twice"),
    ("the same id in other words", f"{PLACES}names: {{0: cat, 00: dog}}\n", "classes", "same number"),
    ("a bomb of lists", f"{BOMB_OF_LISTS}train: *a29\nnames: [cat]\n", "malformed-file", ALIAS),
    ("a bomb of class names", f"{BOMB_OF_LISTS}{PLACES}names: *a29\n", "malformed-file", ALIAS),
    ("a bomb of nc", f"{BOMB_OF_LISTS}{PLACES}names: [cat, dog]\nnc: *a29\n", "malformed-file", ALIAS),
    (
        "a list that runs a program",
        f"{PLACES}names: !!python/object/apply:os.system [id]\n",
        "malformed-file",
        "the tag",
    ),
    ("a bomb of tables", f"{BOMB_OF_TABLES}{PLACES}names: *a29\n", "malformed-file", ALIAS),
    ("a list in itself", f"{PLACES}names: &a [*a]\n", "malformed-file", ALIAS),
    ("a name without text", f"{PLACES}names: {{0: cat, 1: }}\n", "classes", ""),
    ("an id that is no number", f"{PLACES}names: {{cat: 0, dog: 1}}\n", "classes", "whole number"),
    ("an escape sequence as name", f'{PLACES}names: [cat, "\\e[2J"]\n', "classes", ""),
    ("nc of another number", f"{PLACES}names: [cat, dog]\nnc: 3\n", "classes", "nc is 3"),
    ("nc that is a list", f"{PLACES}names: [cat, dog]\nnc: [2]\n", "classes", "nc is neither"),
    ("nc in words", f"{PLACES}names: [cat, dog]\nnc: two\n", "classes", "nc is two"),
    ("train that is a table", "train: {a: b}\nval: images/val\nnames: [cat]\n", "malformed-file", "train is neither"),
    ("no places", "names: [cat, dog]\n", "malformed-file", "says where"),
):
    add(f"YOLO yaml: {what}", with_yaml(text), None, kind, said=said, unsaid="\x1b[2J")


def norwegian(report: CheckReport) -> None:
    assert report.folder is not None
    assert report.folder.classes.names == ("no", "yes")


add("YOLO yaml: the classes no and yes", with_yaml(f"{PLACES}names: [no, yes]\n"), WHOLE, look=norwegian)
add("YOLO yaml: a tag", with_yaml(f"{PLACES}names: [!!str cat, dog]\n"), WHOLE)
ENTRY = "names: [cat, dog]\nval: images/val\ntrain: "
for what, entry in {
    "absolute": "/etc",
    "above": "../elsewhere/pictures",
    "5,000 characters": "n" * 5000,
    "a zero byte": '"a\\0b"',
}.items():
    add(f"YOLO yaml: train that is {what}", with_yaml(ENTRY + entry), ONLY_VAL, "missing-folder")


def with_lines(lines: str | bytes) -> Build:
    def build(data: Path) -> None:
        yolo(data, LABELS, ENTRY + "train.txt\n")
        (data / "train.txt").write_bytes(lines if isinstance(lines, bytes) else lines.encode())

    return build


for what, line in {"absolute": "/etc/passwd", "above": "../b.jpg", "a drive": "C:\\b.jpg"}.items():
    add(
        f"YOLO list: a line that is {what}",
        with_lines(f"images/train/a.jpg\n{line}"),
        FIRST,
        "outside-folder",
        "label-without-image",
        "unlisted-image",
    )
add(
    "YOLO list: a missing image",
    with_lines("images/train/a.jpg\nimages/train/b.png"),
    FIRST,
    "missing-image",
    "label-without-image",
    "unlisted-image",
)
add("YOLO list: not UTF-8", with_lines(b"\xff\xfe\0"), ONLY_VAL, "malformed-file", "empty-split")
add("link: YOLO images outside", linked(with_label(LABEL), "images/train"), ONLY_VAL, "outside-folder", "empty-split")
add(
    "link: a YOLO image outside",
    linked(with_label(LABEL), "images/train/b.jpg"),
    FIRST,
    "outside-folder",
    "label-without-image",
)
add(
    "link: a label file outside",
    linked(with_label(SECRET), "labels/train/b.txt"),
    EMPTY,
    "outside-folder",
    unsaid="s3cret",
)
add(
    "link: labels outside",
    linked(with_label(LABEL), "labels/train"),
    {"train": (2, 0), "val": (1, 1)},
    "outside-folder",
    "no-objects",
)
add(
    "link: a YOLO list outside",
    linked(with_lines("images/train/a.jpg"), "train.txt"),
    ONLY_VAL,
    "outside-folder",
    "empty-split",
)
add("link: data.yaml outside", linked(with_label(LABEL), "data.yaml"), None, "outside-folder")
add(
    "link: folders in a ring",
    lambda data: (
        yolo(data, LABELS),
        (data / "images/train/up").symlink_to(".."),
        (data / "images/val/up").symlink_to(".."),
    ),
    WHOLE,
)

# The folder itself.

add("folder: missing", lambda data: None, None, "layout", said="does not exist")
add("folder: a file", Path.touch, None, "layout", said="is a file")
add("folder: a pipe", os.mkfifo, None, "layout", said="is a file")
add("folder: empty", Path.mkdir, None, "layout", said="holds nothing")
add("folder: data.yaml is a pipe", lambda data: (data.mkdir(), os.mkfifo(data / "data.yaml")), None, "layout")
add(
    "folder: names with escape sequences",
    lambda data: (data.mkdir(), (data / "\x1b[2J").mkdir()),
    None,
    "layout",
    unsaid="\x1b",
)
add("folder: no right to list it", lambda data: (SOUND(data), data.chmod(0)), None, "unreadable-folder", user=True)
add("folder: 300 deep", lambda data: deep(data), WHOLE)


def deep(data: Path) -> None:
    yolo(data, LABELS)
    before = Path.cwd()
    os.chdir(data / "images/train")
    try:
        for _ in range(300):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(before)
