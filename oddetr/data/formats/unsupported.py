"""Formats that are recognised but not read: what they are called, and what to export instead."""

from dataclasses import dataclass
from pathlib import Path

from oddetr.data.formats.files import Files
from oddetr.data.formats.yolo_folders import label_file

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
_LOOKED_AT = 2**26
_MOST_FILES = 3


@dataclass(frozen=True)
class Other:
    """A format by the ending of its files and by what one of them holds.

    Attributes:
        marks: bytes that are all in such a file; none: the name says enough.
        cure: what to do instead.
    """

    name: str
    ending: str
    marks: tuple[bytes, ...]
    cure: str


OTHERS = (
    Other("CVAT for images 1.1", ".xml", (b"<annotations>", b"<image "), "Export from CVAT as COCO 1.0 or YOLO 1.1."),
    Other(
        "labelme's JSON, a file for each image",
        ".json",
        (b'"shapes"', b'"imagePath"'),
        "Convert it to COCO, for example with labelme2coco; X-AnyLabeling exports COCO, YOLO and VOC itself.",
    ),
    Other("a VoTT project", ".vott", (), "Export from VoTT as Pascal VOC."),
    Other("VoTT's JSON", ".json", (b'"assets"', b'"regions"'), "Export from VoTT as Pascal VOC."),
    Other(
        "Supervisely's JSON, a file for each image",
        ".json",
        (b'"objects"', b'"classTitle"'),
        "Export from Supervisely as COCO, YOLO or Pascal VOC.",
    ),
    Other(
        "Label Studio's own JSON", ".json", (b'"annotations"', b'"result"'), "Export from Label Studio as COCO or YOLO."
    ),
    Other("VGG Image Annotator's JSON", ".json", (b'"regions"', b'"shape_attributes"'), "Export from VIA as COCO."),
    Other("CreateML's JSON", ".json", (b'"coordinates"', b'"label"'), "Export as COCO, YOLO or Pascal VOC."),
    Other("Datumaro's JSON", ".json", (b'"items"', b'"categories"'), "Export as COCO, YOLO or Pascal VOC."),
    Other("Label Studio's JSON_MIN", ".json", (b'"rectanglelabels"',), "Export as COCO or YOLO."),
    Other("FiftyOne's own JSON", ".json", (b'"samples"', b'"ground_truth"'), "Export from FiftyOne as COCO or YOLO."),
    Other(
        "COCO JSON without categories or images", ".json", (b'"annotations"', b'"bbox"'), "Export all of COCO's lists."
    ),
    Other("COCO results", ".json", (b'"score"', b'"bbox"'), "Give the ground truth: images, annotations, categories."),
    Other("TFRecord", ".tfrecord", (), "Export as COCO, YOLO or Pascal VOC."),
    Other("Parquet", ".parquet", (), "Write it as COCO JSON with image files."),
    Other("JSON lines", ".jsonl", (), "Write it as COCO JSON: one object with images, annotations and categories."),
    Other("NDJSON, as of Labelbox or Ultralytics", ".ndjson", (), "Export as COCO or YOLO."),
    Other("a packed JSON", ".json.gz", (), "Unpack it."),
    Other("boxes as CSV", ".csv", (), "Export as COCO, YOLO or Pascal VOC."),
)
"""In the order in which they are looked for."""


def recognised(files: Files) -> str | None:
    """What the folder holds instead of a data set that can be read, and what to do; None if nothing is recognised."""
    folders = [".", *files.subfolders()]
    folders += [inner for folder in folders[1:] for inner in files.subfolders(folder)]
    for other in OTHERS:
        for folder in folders:
            for file in files.probe().files_in(folder, [other.ending], below=False)[:_MOST_FILES]:
                if _holds(files, file, other.marks):
                    return f"{files.root} holds {other.name} ({file}), which is not read. {other.cure}"
    packed = next(iter(files.probe().files_in(".", _ARCHIVES, below=False)), None)
    if packed is not None:
        return f"{files.root} holds an archive, {packed}: unpack it, and give the folder."
    labelled = (files.find(label_file(image)) for image in files.probe().images_in("."))
    first = next(filter(None, labelled), None)
    words = [line.split() for _, line in files.probe().lines(first, _LOOKED_AT)[:1]] if first else []
    if words and not words[0][0].isdecimal():
        return (
            f"{files.root} holds images and text files ({first}) whose lines begin with {words[0][0][:40]!r}, as "
            "KITTI's or DOTA's do, which are not read. Convert them to COCO or YOLO."
        )
    if first:
        return (
            f"{files.root} holds images and text files, as YOLO's labels, but no names of the classes: add classes.txt "
            "(a name a line, in the order of their numbers) or data.yaml."
        )
    return None


def archive(file: Path) -> str | None:
    """What to do with a file that is an archive; None if it is none."""
    return f"{file} is an archive: unpack it, and give the folder." if file.suffix.lower() in _ARCHIVES else None


def _holds(files: Files, file: str, marks: tuple[bytes, ...]) -> bool:
    content = files.probe().parse(file, _LOOKED_AT, bytes) if marks else b""
    return content is not None and all(mark in content for mark in marks)
