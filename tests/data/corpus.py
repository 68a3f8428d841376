"""Broken data sets, built by code: what is wrong with each, which faults are found, and what can still be read.

`CASES` has them all. Each is a sound data set but for one thing: of COCO, images a and b in train with an object each,
and one image in val; so too of Pascal VOC and YOLO.
"""

import io
import json
import os
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
from tests.data.builders import CATS, coco, coco_image, coco_object, voc, voc_xml, write_image, yolo

SHARED_CASES = Path(__file__).parents[3] / "shared/cases"
"""Scripts beside the repository that write files as real tools export them."""
TRAIN = "annotations/instances_train.json"
NFC, NFD = unicodedata.normalize("NFC", "Fähre"), unicodedata.normalize("NFD", "Fähre")
LABEL = "0 0.5 0.5 0.25 0.5\n"
MANY = 10_001

Build = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """A broken data set.

    Attributes:
        name: what is wrong.
        build: makes the data set's folder.
        left: images and objects of each split that are read; None if nothing can be read.
        kinds: the faults that are found, and how many, without those of rare classes.
        has: words of the report.
        lacks: words that the report must not have.
        look: a closer look at what was read.
        user: whether root must give up its rights to see what is wrong.
    """

    name: str
    build: Build
    left: dict[str, tuple[int, int]] | None
    kinds: dict[str, int] = field(default_factory=dict)
    has: str = ""
    lacks: str = "\x1b"
    look: Callable[[CheckReport], None] | None = None
    user: bool = False


CASES: list[Case] = []
ALL = {"train": (2, 2), "val": (1, 1)}
LOST_OBJECT = {"train": (2, 1), "val": (1, 1)}
LOST_IMAGE = {"train": (1, 1), "val": (1, 1)}
LOST_TRAIN = {"val": (1, 1)}


def add(name: str, build: Build, left: dict[str, tuple[int, int]] | None, *kinds: str, **more: Any) -> None:
    CASES.append(Case(name, build, left, {kind: kinds.count(kind) for kind in kinds}, **more))


def written(file: Path, content: str | bytes) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def sparse(file: Path, size: int) -> None:
    """A file of zeros that takes no space."""
    file.touch()
    os.truncate(file, size)


# Images: b of a COCO set.


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def picture(mode: str = "RGB", width: int = 64, height: int = 48) -> Image.Image:
    """Colours that run from corner to corner, which lossy formats keep."""
    rows, columns = np.linspace(0, 255, height), np.linspace(0, 255, width)
    pixels = np.stack([*np.meshgrid(columns, rows), np.zeros((height, width))], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def with_image(make: bytes | Build, name: str = "b.jpg", size: tuple[int, int] = (64, 48)) -> Build:
    def build(data: Path) -> None:
        coco(data, [coco_object(5, 2)], [coco_image(1, "a.jpg"), coco_image(2, name, *size)], written=False)
        write_image(data / "train/a.jpg")
        if isinstance(make, bytes):
            (data / "train" / name).write_bytes(make)
        else:
            make(data / "train" / name)

    return build


def png(width: int, height: int, rows: bytes | None = None) -> bytes:
    """A black PNG of one bit per pixel; or only these compressed rows of it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    body = zlib.compress(bytes(1 + (width + 7) // 8) * height) if rows is None else rows
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def frames(format: str) -> bytes:
    return saved(picture(), format, save_all=True, append_images=[picture().rotate(180)])


def sample_b(report: CheckReport) -> Any:
    assert report.folder is not None
    return report.folder.splits["train"].sample(1)


def first_frame(report: CheckReport) -> None:
    shown = sample_b(report).image.astype(int)
    assert np.abs(shown - np.asarray(picture())).mean() < 30 < np.abs(shown[::-1, ::-1] - np.asarray(picture())).mean()


WHITE_LEFT = np.zeros((48, 64, 3), dtype=np.uint8)
WHITE_LEFT[:, :32] = 255


def white_under_the_box(report: CheckReport) -> None:
    """EXIF turns the white left half to the top, where the box is."""
    sample = sample_b(report)
    x0, y0, x1, y1 = sample.boxes[0].astype(int)
    assert sample.image[y0:y1, x0:x1].min() > 240
    assert sample.image.shape == (64, 48, 3)


def turned_coco(data: Path) -> None:
    coco(data, [coco_object(5, 2, (0, 0, 48, 32))], [coco_image(1, "a.jpg"), coco_image(2, "b.png", 48, 64)])
    Image.fromarray(WHITE_LEFT).save(data / "train/b.png", exif=exif(6))


JPEG, PNG = saved(picture(), "JPEG"), saved(picture(), "PNG")
for what, content in {
    "truncated JPEG": JPEG[: len(JPEG) // 2],
    "only a start": JPEG[:3],
    "text": b"no image at all",
    "EPS, which Pillow gives to a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EOF\n",
    "TIFF of floats": saved(Image.fromarray(np.zeros((48, 64), dtype=np.float32)), "TIFF"),
}.items():
    add(f"image: {what}", with_image(content), ALL, "unreadable-image")
HUGE = png(100_000, 100_000, rows=zlib.compress(b""))
add("image: 100000x100000", with_image(HUGE, "b.png", (100_000, 100_000)), ALL, "image-too-large")
add("image: decompression bomb", with_image(png(9_500, 9_500), "b.png", (9_500, 9_500)), ALL, "image-too-large")
add("image: a gigabyte", with_image(lambda path: sparse(path, 2**30 + 1)), ALL, "image-too-large")
add("image: a folder", with_image(Path.mkdir), ALL, "unreadable-image", has="it is a folder")
add("image: a pipe", with_image(os.mkfifo), ALL, "unreadable-image", has="it is a pipe")
add("image: a link to itself", with_image(lambda path: path.symlink_to("b.jpg")), ALL, "unreadable-image")
LOCKED = with_image(lambda path: (write_image(path), path.chmod(0)))
add("image: no right to read it", LOCKED, ALL, "unreadable-image", has="Permission denied", user=True)
add("image: PNG named .jpg", with_image(PNG), ALL)
for format, name in (("GIF", "b.gif"), ("TIFF", "b.tif")):
    add(f"image: animated {format}", with_image(frames(format), name), ALL, "animated-image", look=first_frame)
add("image: JPEG with a preview (MPO)", with_image(frames("MPO")), ALL, look=first_frame)
add("image: turned by EXIF, boxes of what is shown", turned_coco, ALL, look=white_under_the_box)
TURNED = with_image(saved(picture(), "JPEG", exif=exif(6)))
add("image: turned by EXIF, boxes of what is stored", TURNED, ALL, "size-before-turn", has="--ignore-exif")
NO_EXIF = saved(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(9))
add("image: broken EXIF", with_image(NO_EXIF), ALL)
OTHER_SIZE = with_image(JPEG, size=(32, 24))
add("image: another size than annotated", OTHER_SIZE, ALL, "wrong-size", has="64x48 pixels, but")

# COCO: the JSON of train.


def with_text(text: str | bytes) -> Build:
    return lambda data: (coco(data), written(data / TRAIN, text))


def content(**changes: Any) -> dict[str, Any]:
    images = [coco_image(1, "a.jpg"), coco_image(2, "b.jpg")]
    return {"images": images, "annotations": [coco_object(90, 1), coco_object(5, 2)], "categories": CATS} | changes


def with_content(**changes: Any) -> Build:
    return with_text(json.dumps(content(**changes)))


def with_object(**changes: Any) -> Build:
    return with_content(annotations=[coco_object(90, 1), coco_object(5, 2) | changes])


def with_second(image: Any) -> Build:
    """This image in place of b."""
    return with_content(images=[coco_image(1, "a.jpg"), image])


GOOD = json.dumps(content())
for what, text, has in (
    ("truncated", GOOD[: len(GOOD) // 2], ""),
    ("a list", "[]", 'no list "images"'),
    ("a web page", "<!DOCTYPE html>\n<html>Sign in</html>", "HTML"),
    ("nested 100,000 deep in a record", GOOD.replace("[8, 8, 20, 16]", "[" * 10**5 + "]" * 10**5, 1), "nested"),
    ("not UTF-8", b'{"images": "\xff\xfe\xfd"}', "not text in UTF-8"),
    ("a key twice", GOOD.replace('"image_id": 2', '"image_id": 1, "image_id": 2'), "'image_id' occurs twice"),
    ("annotations are missing", json.dumps({"images": [], "categories": CATS}), 'no list "annotations"'),
    ("a number of 5,000 digits", GOOD.replace('"id": 5', '"id": ' + "9" * 5000), "digits"),
):
    add(f"COCO: {what}", with_text(text), LOST_TRAIN, "malformed-file", has=has)
add("COCO: UTF-16", with_text(GOOD.encode("utf-16")), ALL)
for what, make in (("a pipe", os.mkfifo), ("16 gigabytes", lambda file: sparse(file, 2**34 + 1))):
    build = lambda data, make=make: (coco(data), (data / TRAIN).unlink(), make(data / TRAIN))  # noqa: E731
    add(f"COCO: {what}", build, LOST_TRAIN, "malformed-file")
for what, box, kind in (
    ("NaN", [float("nan"), 8, 20, 16], "not-a-number"),
    ("words", ["8", "8", "20", "16 px"], "not-a-number"),
    ("an integer of 400 digits", [8, 8, 10**400, 16], "not-a-number"),
    ("numbers whose sum is infinite", [1e308, 8, 1e308, 16], "not-a-number"),
    ("three numbers", [8, 8, 20], "not-a-number"),
    ("null", None, "not-a-number"),
    ("negative width", [8, 8, -5, 16], "inverted-box"),
    ("outside", [64, 8, 5, 4], "box-outside"),
    ("far outside", [1e30, 1e30, 1e31, 1e31], "box-outside"),
):
    add(f"COCO box: {what}", with_object(bbox=box), LOST_OBJECT, kind)
add("COCO box: no area", with_object(bbox=[8, 8, 0, 16]), LOST_OBJECT, "zero-area-box", "emptied-image")
add("COCO box: partly outside", with_object(bbox=[50, 40, 60, 60]), ALL, "clipped-box")
for what, changes, kind in (
    ("of an unknown category", {"category_id": 5}, "unknown-category"),
    ("of an unknown image", {"image_id": 9}, "unknown-image"),
    ("without an image id", {"image_id": None}, "malformed-record"),
    ("with an id of 30 digits", {"id": 10**30}, "malformed-record"),
    ("with iscrowd yes", {"iscrowd": "yes"}, "malformed-record"),
    ("with another's id", {"id": 90}, "duplicate-annotation-id"),
):
    add(f"COCO: an object {what}", with_object(**changes), LOST_OBJECT, kind)
UNKNOWN = ("unknown-image", "unlisted-image")
add("COCO: an image id twice", with_second(coco_image(1, "b.jpg")), LOST_IMAGE, "duplicate-image-id", *UNKNOWN)
for what, image in (("without a file name", {"id": 2}), ("without an id", coco_image(2, "b.jpg") | {"id": ""})):
    add(f"COCO: an image {what}", with_second(image), LOST_IMAGE, "malformed-record", *UNKNOWN)
add("COCO: an image is null", with_second(None), LOST_IMAGE, "malformed-record", *UNKNOWN)
for what, name, kind, has in (
    ("of another image", "a.jpg", "duplicate-file-name", "train/a.jpg is listed again as image id 2"),
    ("with a zero byte", "b\0.jpg", "missing-image", ""),
    ("with half a character", "\ud800.jpg", "missing-image", ""),
    ("of 5,000 characters", "b/" * 2500 + "c.jpg", "missing-image", ""),
    ("with an escape sequence", "\x1b[2Jb.jpg", "missing-image", ""),
    ("in other capitals", "B.JPG", "missing-image", "there is train/b.jpg"),
    ("that is absolute", "/etc/passwd", "outside-folder", "--allow-outside"),
    ("that leads up", "..\\..\\c.jpg", "outside-folder", ""),
):
    build = with_second(coco_image(2, name))
    add(f"COCO: a file name {what}", build, LOST_IMAGE, kind, "unlisted-image", has=has)
for what, name in (
    ("of another machine", "C:\\data\\train\\b.jpg"),
    ("that leads up to another folder", "..\\..\\b.jpg"),
    ("as browsers write it", "%62.jpg"),
):
    add(f"COCO: a file name {what}", with_second(coco_image(2, name)), ALL)
add("COCO: ids as text", with_content(images=[coco_image(1, "a.jpg"), coco_image(2, "b.jpg") | {"id": "2"}]), ALL)
for width in ("64", 10**30, -64):
    add(f"COCO: a width of {width}", with_second(coco_image(2, "b.jpg", width)), ALL)  # pyright: ignore[reportArgumentType]


def with_names(written: str, on_disk: str) -> Build:
    """b has these names in the JSON and on the disk."""

    def build(data: Path) -> None:
        with_second(coco_image(2, written))(data)
        (data / "train/b.jpg").rename(data / "train" / on_disk)

    return build


for what, written_as, on_disk in (
    ("not Latin", "ねこ 1.jpg", "ねこ 1.jpg"),
    ("composed in the JSON, decomposed on disk", f"{NFC}.jpg", f"{NFD}.jpg"),
    ("decomposed in the JSON, composed on disk", f"{NFD}.jpg", f"{NFC}.jpg"),
    ("the same but for capitals", "A.jpg", "A.jpg"),
):
    add(f"names: {what}", with_names(written_as, on_disk), ALL)
for what, name in (("an escape sequence", "\x1b[2J.jpg"), ("a line break", "b\nc.jpg")):
    add(f"names: {what} on disk", with_names(name, name), LOST_IMAGE, "unreadable-name")
ESCAPE = [*CATS, {"id": 9, "name": "\x1b[31mred"}]
add("COCO categories: an escape sequence", with_content(categories=ESCAPE), ALL, "malformed-record")
add("COCO categories: one more in val", with_content(categories=CATS[:1]), ALL)
TWICE = with_content(categories=[*CATS, CATS[0] | {"id": 9}])
add("COCO categories: a name twice", TWICE, None, "classes")


def many_coco(count: int) -> Build:
    """So many objects on b, and one on a."""

    def build(data: Path) -> None:
        coco(data)
        record = '{"id": %d, "image_id": 2, "category_id": 3, "bbox": [%f, 8, 20, %f], "iscrowd": 0}'
        records = (record % (index, index % 1000 / 25, 1 + index // 1000 / 10) for index in range(count))
        objects = ",".join([json.dumps(coco_object(count, 1)), *records])
        (data / TRAIN).write_text(
            json.dumps(content(annotations=[])).replace('"annotations": []', f'"annotations": [{objects}]')
        )

    return build


add("COCO: too many objects on an image", many_coco(MANY), ALL | {"train": (2, MANY + 1)}, "crowded-image")
UNLISTABLE = lambda data: (coco(data, [coco_object(5, 2)]), (data / "train").chmod(0))  # noqa: E731
add("COCO: no right to list the images", UNLISTABLE, LOST_TRAIN, "unreadable-folder", user=True)

# VOC: a and b of train, c of val; b has the fault.

LISTS = {"train": ["a", "b"], "val": ["c"]}
OBJECT = (
    "<object><name>cat</name><bndbox><xmin>11</xmin><ymin>11</ymin><xmax>30</xmax><ymax>30</ymax></bndbox></object>"
)
XML = f"<annotation>{OBJECT}</annotation>"


def with_xml(text: str | bytes) -> Build:
    return lambda data: (voc(data, LISTS), written(data / "Annotations/b.xml", text))


def voc_then(change: Build) -> Build:
    return lambda data: (voc(data, LISTS), change(data))


ENTITIES = '<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
for what, text, has in (
    ("truncated", XML[:60], ""),
    ("a web page", "<html><body>Sign in</body></html>", "<html>"),
    ("a billion laughs", f"<!DOCTYPE a [{ENTITIES}]>{XML.replace('cat', '&l9;')}", "document type"),
    (
        "an external entity",
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>{XML.replace("cat", "&x;")}',
        "document type",
    ),
    ("not UTF-8", XML.encode().replace(b"cat", b"\xff\xfe"), ""),
):
    add(f"VOC: {what}", with_xml(text), LOST_OBJECT, "malformed-file", has=has, lacks="root:")
add(
    "VOC: 64 megabytes",
    voc_then(lambda data: sparse(data / "Annotations/b.xml", 2**26 + 1)),
    LOST_OBJECT,
    "malformed-file",
)
add("VOC: UTF-16", with_xml(f'<?xml version="1.0" encoding="UTF-16"?>{XML}'.encode("utf-16")), ALL)
for what, old, new, kind in (
    ("a box with NaN", "30", "nan", "not-a-number"),
    ("a box in words", "30", "thirty", "not-a-number"),
    ("a box with 1_1", "11", "1_1", "not-a-number"),
    ("a box without xmax", "<xmax>30</xmax>", "", "not-a-number"),
    ("a box with two xmax", "<xmax>30</xmax>", "<xmax>30</xmax><xmax>40</xmax>", "malformed-record"),
    ("an inverted box", "30", "2", "inverted-box"),
    ("no name", "<name>cat</name>", "", "malformed-record"),
    ("two names", "<name>cat</name>", "<name>cat</name><name>dog</name>", "malformed-record"),
    ("no box", OBJECT, "<object><name>cat</name></object>", "malformed-record"),
    ("a line break in its name", "cat", "c\nt", "malformed-record"),
):
    add(f"VOC: an object with {what}", with_xml(XML.replace(old, new)), LOST_OBJECT, kind)
FLAT = with_xml(XML.replace("30", "11"))
add("VOC: an object with a box without area", FLAT, LOST_OBJECT, "zero-area-box", "emptied-image")
FAR = XML.replace("<xmin>11", "<xmin>90").replace("<xmax>30", "<xmax>99")
add("VOC: a box outside", with_xml(FAR), LOST_OBJECT, "box-outside")
add("VOC: a box partly outside", with_xml(XML.replace("30", "90")), ALL, "clipped-box")
for width in ("1e300", "wide"):
    size = f"<size><width>{width}</width><height>48</height></size>"
    add(f"VOC: a width of {width}", with_xml(XML.replace("<object>", size + "<object>", 1)), ALL)


def with_list(content: bytes) -> Build:
    return voc_then(lambda data: (data / "ImageSets/Main/train.txt").write_bytes(content))


TWO_UNLISTED = ("unlisted-image", "unlisted-image")
add("VOC list: line ends of Windows", with_list(b"a\r\nb\r\n"), ALL)
add("VOC list: UTF-16", with_list("a\nb\n".encode("utf-16")), LOST_TRAIN, "malformed-file", *TWO_UNLISTED)
add("VOC list: leads out", with_list(b"a\nb\n../../etc/passwd\n"), ALL, "missing-image")
add("VOC list: a name of 5,000 characters", with_list(b"a\nb\n" + b"n" * 5000), ALL, "missing-image")
add(
    "VOC: image composed, XML decomposed",
    lambda data: (
        voc(data, {"train": ["a", NFC], "val": ["c"]}),
        (data / f"Annotations/{NFC}.xml").rename(data / f"Annotations/{NFD}.xml"),
    ),
    ALL,
)
TWO_IMAGES = voc_then(lambda data: write_image(data / "JPEGImages/b.png"))
add("VOC: two images of one XML file", TWO_IMAGES, LOST_IMAGE, *["ambiguous-image"] * 3)
NO_XML = voc_then(lambda data: (data / "Annotations/b.xml").unlink())
add("VOC: an image without XML", NO_XML, LOST_OBJECT, "image-without-label")
LONE_XML = voc_then(lambda data: voc_xml(data / "Annotations/d.xml", []))
add("VOC: XML without an image", LONE_XML, ALL, "label-without-image")

# YOLO: a and b of train, v of val; b has the fault.

LABELS = {"train/a.jpg": LABEL, "train/b.jpg": LABEL, "val/v.jpg": LABEL}


def with_label(text: str | bytes) -> Build:
    return lambda data: (yolo(data, LABELS), written(data / "labels/train/b.txt", text))


def yolo_then(change: Build, labels: dict[str, str | None] | None = None) -> Build:
    return lambda data: (yolo(data, LABELS | (labels or {})), change(data))


for what, text in (
    ("tabs", "0\t0.5\t0.5\t0.25\t0.5\n"),
    ("line ends of Windows", "0 0.5 0.5 0.25 0.5\r\n\r\n"),
    ("a byte order mark", "\ufeff" + LABEL),
    ("a polygon", "0 0.25 0.25 0.75 0.25 0.5 0.75\n"),
    ("a score", "0 0.5 0.5 0.25 0.5 0.9\n"),
):
    add(f"YOLO: a label with {what}", with_label(text), ALL)
for what, text, kind in (
    ("UTF-16", LABEL.encode("utf-16"), "malformed-file"),
    ("NaN", "0 nan 0.5 0.25 0.5", "not-a-number"),
    ("1e999", "0 1e999 0.5 0.25 0.5", "not-a-number"),
    ("decimal commas", "0 0,5 0,5 0,25 0,5", "not-a-number"),
    ("0_5", "0 0_5 0.5 0.25 0.5", "not-a-number"),
    ("three numbers", "0 0.5 0.5 0.25", "malformed-record"),
    ("seven numbers", "0 0.5 0.5 0.25 0.5 0.5 0.5 0.5", "malformed-record"),
    ("a score of 1.9", "0 0.5 0.5 0.2 0.2 1.9", "malformed-record"),
    ("pixels", "0 20 20 10 10", "pixel-coordinates"),
    ("negative width", "0 0.5 0.5 -0.25 0.5", "inverted-box"),
    ("a box outside", "0 1.5 0.5 0.25 0.5", "box-outside"),
    ("class 7", "7 0.5 0.5 0.25 0.5", "unknown-category"),
    ("class 0.5", "0.5 0.5 0.5 0.25 0.5", "unknown-category"),
    ("a class by name", "cat 0.5 0.5 0.25 0.5", "malformed-record"),
    ("commas", "0,0.5,0.5,0.25,0.5", "malformed-record"),
):
    add(f"YOLO: a label with {what}", with_label(text), LOST_OBJECT, kind)
FLAT_LABEL = with_label("0 0.5 0.5 0 0.5")
add("YOLO: a label with no area", FLAT_LABEL, LOST_OBJECT, "zero-area-box", "emptied-image")


def many_lines(count: int) -> str:
    places = ((0.2 + index % 1000 / 2000, 0.2 + index // 1000 / 1000) for index in range(count))
    return "".join(f"0 {x:.7f} 0.5 0.25 {height:.7f}\n" for x, height in places)


add("YOLO: a box partly outside", with_label("0 0.9 0.5 0.4 0.5"), ALL, "clipped-box")
add(
    "YOLO: labels of 64 megabytes",
    yolo_then(lambda data: sparse(data / "labels/train/b.txt", 2**26 + 1)),
    LOST_OBJECT,
    "malformed-file",
)
add("YOLO: too many lines", with_label(many_lines(MANY)), ALL | {"train": (2, MANY + 1)}, "crowded-image")
FOLDER = yolo_then(lambda data: (data / "labels/train/b.txt").mkdir(), {"train/b.jpg": None})
add("YOLO: labels that are a folder", FOLDER, LOST_OBJECT, "malformed-file")
SHARED = yolo_then(lambda data: write_image(data / "images/train/b.png"))
add("YOLO: two images of one label file", SHARED, ALL | {"train": (3, 3)}, *["ambiguous-image"] * 2)
RENAMED = yolo_then(
    lambda data: (data / "images/train/b.jpg").rename(os.fsdecode(os.fsencode(data / "images/train") + b"/b\xff.jpg"))
)
NO_TEXT = ("unreadable-name", "image-without-label", "label-without-image")
add("YOLO: a name that is not UTF-8", RENAMED, LOST_IMAGE, *NO_TEXT, has="\\udcff")

PLACES = "train: images/train\nval: images/val\n"


def with_yaml(text: str | bytes) -> Build:
    return yolo_then(lambda data: written(data / "data.yaml", text))


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
ALIAS = "stands for another part of it"
for what, text, kind, has in (
    ("empty", "", "malformed-file", "it is empty"),
    ("torn", "names: [cat", "malformed-file", ""),
    ("nested 700 deep", "names: " + "[" * 700 + "]" * 700, "malformed-file", "nested too deeply"),
    ("of a megabyte", "# " + "x" * 2**20, "malformed-file", "bytes"),
    ("a key twice", f"{PLACES}names: [cat, dog]\nnames: [dog, cat]\n", "malformed-file", "'names' occurs twice"),
    ("an id twice", f"{PLACES}names: {{0: cat, 00: dog}}\n", "classes", "same number"),
    ("a bomb of class names", f"{BOMB}{PLACES}names: *a29\n", "malformed-file", ALIAS),
    ("a program", f"{PLACES}names: !!python/object/apply:os.system [id]\n", "malformed-file", "constructor"),
    ("a name without text", f"{PLACES}names: {{0: cat, 1: }}\n", "classes", ""),
    ("an id that is no number", f"{PLACES}names: {{cat: 0, dog: 1}}\n", "classes", "whole number"),
    ("an escape sequence as name", f'{PLACES}names: [cat, "\\e[2J"]\n', "classes", ""),
    ("no names", PLACES, "classes", "there are no names"),
    ("nc of another number", f"{PLACES}names: [cat, dog]\nnc: 3\n", "classes", "nc is 3"),
    ("nc that is a list", f"{PLACES}names: [cat, dog]\nnc: [2]\n", "classes", "nc is ['2']"),
    ("train that is a table", "train: {a: b}\nval: images/val\nnames: [cat]\n", "malformed-file", "train is neither"),
    ("no places", "names: [cat, dog]\n", "malformed-file", "says where"),
):
    add(f"YOLO yaml: {what}", with_yaml(text), None, kind, has=has)


def no_and_yes(report: CheckReport) -> None:
    assert report.folder is not None
    assert report.folder.classes.names == ("no", "yes")


add("YOLO yaml: the classes no and yes", with_yaml(f"{PLACES}names: [no, !!str yes]\n"), ALL, look=no_and_yes)
ENTRY = "names: [cat, dog]\nval: images/val\ntrain: "
for what, entry in (("absolute", "/etc"), ("above", "../other"), ("long", "n" * 5000), ("a zero byte", '"a\\0b"')):
    add(f"YOLO yaml: a place that is {what}", with_yaml(ENTRY + entry), LOST_TRAIN, "missing-folder")


def with_lines(lines: str | bytes) -> Build:
    return lambda data: (yolo(data, LABELS, ENTRY + "train.txt\n"), written(data / "train.txt", lines))


for what, line, kind in (
    ("that is absolute", "/content/pets/images/train/z.jpg", "outside-folder"),
    ("that leads up", "images/../../z.jpg", "outside-folder"),
    ("of a missing image", "images/train/b.png", "missing-image"),
):
    kinds = (kind, "label-without-image", "unlisted-image")
    add(f"YOLO list: a line {what}", with_lines(f"images/train/a.jpg\n{line}"), LOST_IMAGE, *kinds)
add("YOLO list: not UTF-8", with_lines(b"\xff\xfe\0"), LOST_TRAIN, "malformed-file")
add("YOLO list: a line of another machine", with_lines("D:\\pets\\images\\train\\a.jpg\n/x/images/train/b.jpg"), ALL)


# Links. The data set's folder is `data`; `elsewhere` lies beside it.


def moved(path: Path) -> None:
    """Moves a file or folder out of the data set, and leaves a link to it."""
    root = next(parent for parent in path.parents if parent.name == "data")
    away = root.parent / "elsewhere" / path.name
    away.parent.mkdir(exist_ok=True)
    path.rename(away)
    path.symlink_to(away)


def linked(build: Build, path: str) -> Build:
    return lambda data: (build(data), moved(data / path))


SOUND, SOUND_VOC, SOUND_YOLO = with_text(GOOD), with_xml(XML), with_label(LABEL)
SECRET = with_label("0 0.5 0.5 0.25 s3cret\n")
for path, build, left, *kinds in (
    ("train/b.jpg", SOUND, LOST_IMAGE),
    ("train", SOUND, LOST_TRAIN),
    (TRAIN, SOUND, LOST_TRAIN, "missing-split"),
    ("annotations", SOUND, None, "layout"),
    ("JPEGImages", SOUND_VOC, None, *["label-without-image", "missing-image"] * 3, "classes"),
    ("JPEGImages/b.jpg", SOUND_VOC, LOST_IMAGE, "missing-image", "label-without-image"),
    ("Annotations/b.xml", SOUND_VOC, LOST_OBJECT, "image-without-label"),
    ("ImageSets/Main/train.txt", SOUND_VOC, LOST_TRAIN, *TWO_UNLISTED),
    ("images/train", SOUND_YOLO, LOST_TRAIN),
    ("images/train/b.jpg", SOUND_YOLO, LOST_IMAGE, "label-without-image"),
    ("labels/train/b.txt", SECRET, LOST_OBJECT),
    ("labels/train", SOUND_YOLO, {"train": (2, 0), "val": (1, 1)}, "no-objects"),
    ("train.txt", with_lines("images/train/a.jpg"), LOST_TRAIN),
    ("data.yaml", SOUND_YOLO, None),
):
    has = f"{path}: is a link to /"
    add(f"link: {path} leads out", linked(build, path), left, "outside-folder", *kinds, has=has, lacks="s3cret")
DEVICE = with_image(lambda path: path.symlink_to("/dev/zero"))
add("link: to a device", DEVICE, LOST_IMAGE, "outside-folder")
for what, build in (
    (
        "an image inside",
        lambda data: (
            SOUND(data),
            (data / "train/b.jpg").rename(data / "c.jpg"),
            (data / "train/b.jpg").symlink_to("../c.jpg"),
        ),
    ),
    (
        "a folder inside",
        lambda data: (SOUND(data), (data / "train").rename(data / "pictures"), (data / "train").symlink_to("pictures")),
    ),
    ("the data folder", lambda data: (SOUND(data), data.rename(data.with_name("real")), data.symlink_to("real"))),
    ("out, but not needed", lambda data: (SOUND(data), (data / "train_runs").symlink_to("/tmp"))),
    ("to the folder above", lambda data: (SOUND_YOLO(data), (data / "images/train/up").symlink_to(".."))),
):
    add(f"link: {what}", build, ALL)

# The folder itself.

add("folder: missing", lambda data: None, None, "layout", has="does not exist")
add("folder: a pipe", os.mkfifo, None, "layout", has="is a file")
add("folder: empty", Path.mkdir, None, "layout", has="holds nothing")
add("folder: data.yaml is a pipe", lambda data: (data.mkdir(), os.mkfifo(data / "data.yaml")), None, "layout")
add("folder: an escape sequence in it", lambda data: (data.mkdir(), (data / "\x1b[2J").mkdir()), None, "layout")
add("folder: no right to list it", lambda data: (SOUND(data), data.chmod(0)), None, "unreadable-folder", user=True)
