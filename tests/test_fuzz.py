"""Readers and loaders are given damaged files: only their documented errors come out, and what is read is sound.

Some seconds of it always; `python -m pytest -m slow tests/test_fuzz.py` takes ten minutes (ODDETR_FUZZ_MINUTES says
otherwise). What it found stands in tests/data/corpus.py.
"""

import io
import json
import os
import re
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from oddetr.checkpoint import DESCRIPTION, WEIGHT_FILES, CheckpointError, CheckpointInfo, load_checkpoint, read_info
from oddetr.checkpoint import save_checkpoint as save
from oddetr.data.check import check, print_report
from oddetr.data.dataset import ClassTable
from oddetr.data.images import ImageError, decode, read_image, read_size
from oddetr.data.reader import DataFolder
from oddetr.models.checkpoints import read_foreign
from oddetr.models.presets import DetectorConfig, build_detector
from tests.data.builders import coco, voc, yolo
from tests.data.corpus import GOOD, LABELS, LISTS, TRAIN, XML, frames, picture, saved
from tests.data.test_corpus import assert_sound
from tests.test_conversion import official, small

QUICK = 30
"""Examples of each target in ordinary runs."""
MINUTES = float(os.environ.get("ODDETR_FUZZ_MINUTES", "10"))
"""Of all targets together."""
CALM = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
WORDS = (
    "",
    " ",
    "\0",
    "\n",
    "nan",
    "-inf",
    "1e999",
    "-0",
    "1_0",
    "9" * 30,
    "0.5",
    "-7",
    "<",
    "&x;",
    "é",
    "\ud800",
    "~",
    "../..",
    "/etc",
)
ODD = st.sampled_from(
    (None, True, 0, -1, 2**63, 10**400, 1e308, float("nan"), float("inf"), [], {}, "", "../a", "\ud800", "\0")
)
ANY = st.recursive(
    ODD | st.integers(-5, 70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes flipped, cut out, put in or repeated."""
    out = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at, count = draw(st.integers(0, len(out))), draw(st.integers(0, 40))
        what = draw(st.sampled_from(("flip", "cut", "end", "insert", "repeat")))
        if what == "flip" and at < len(out):
            out[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del out[at : at + count]
        elif what == "end":
            del out[at:]
        elif what == "insert":
            out[at:at] = draw(st.binary(max_size=8))
        else:
            out[at:at] = out[at : at + count]
    return bytes(out)


@st.composite
def rearranged(draw: st.DrawFn, text: str) -> bytes:
    """Words, tags and spaces left out, repeated, exchanged or replaced."""
    parts = re.findall(r"<[^>]*>|\s+|[^\s<]+", text)
    for _ in range(draw(st.integers(1, 4))):
        at, other = draw(st.integers(0, len(parts) - 1)), draw(st.integers(0, len(parts) - 1))
        what = draw(st.sampled_from(("drop", "twice", "swap", "replace")))
        if what == "drop" and len(parts) > 1:
            del parts[at]
        elif what == "twice":
            parts.insert(other, parts[at])
        elif what == "swap":
            parts[at], parts[other] = parts[other], parts[at]
        else:
            parts[at] = draw(st.sampled_from(WORDS) | st.text(max_size=8))
    return "".join(parts).encode("utf-8", "surrogatepass")


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    keys = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in keys for place in [(value, key), *places(inner)]]


@st.composite
def changed(draw: st.DrawFn, content: Any, values: st.SearchStrategy[Any] = ANY) -> bytes:
    """JSON with values replaced, left out, repeated or moved."""
    content = deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        known = places(content)
        if not known:
            break
        container, key = known[draw(st.integers(0, len(known) - 1))]
        what = draw(st.sampled_from(("replace", "replace", "drop", "twice", "move")))
        if what == "replace":
            container[key] = draw(values)
        elif what == "drop":
            del container[key]
        elif what == "twice" and isinstance(container, list):
            container.append(deepcopy(container[key]))
        else:
            container[key] = deepcopy(known[draw(st.integers(0, len(known) - 1))][0])
    return json.dumps(content).encode()


@dataclass(frozen=True)
class Target:
    """Something that reads files.

    Attributes:
        build: writes what is sound into an empty folder, and gives the damage that is done to it.
        read: writes one damage into the folder, and reads.
    """

    build: Callable[[Path], st.SearchStrategy[Any]]
    read: Callable[[Path, Any], None]


def read_data(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).write_bytes(content)
    report = check(root)
    assert report.folder is not None or report.errors
    if report.folder is not None:
        folder: DataFolder = report.folder
        assert_sound(folder)
    console = Console(file=io.StringIO(), markup=False)
    print_report(report, console, every=True)
    console.file.getvalue().encode()  # pyright: ignore[reportAttributeAccessIssue]


def build_coco(place: Path) -> st.SearchStrategy[Any]:
    coco(place)
    text = changed(json.loads(GOOD)) | damaged(GOOD.encode())
    return st.fixed_dictionaries({TRAIN: text})


def build_voc(place: Path) -> st.SearchStrategy[Any]:
    voc(place, LISTS)
    sized = XML.replace("<object>", "<size><width>64</width><height>48</height></size><object>", 1)
    names = rearranged("a\nb\n") | st.just(b"a\nb\n")
    text = rearranged(sized) | damaged(sized.encode())
    return st.fixed_dictionaries({"Annotations/b.xml": text, "ImageSets/Main/train.txt": names})


def build_yolo(place: Path) -> st.SearchStrategy[Any]:
    lines = "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.75 0.25 0.5 0.75\n"
    plain = "train: train.txt\nval: images/val\nnames: [cat, dog]\nnc: 2\n"
    yolo(place, LABELS)
    listed = "images/train/a.jpg\nimages/train/b.jpg\n"
    return st.fixed_dictionaries(
        {
            "labels/train/b.txt": rearranged(lines) | damaged(lines.encode()),
            "data.yaml": st.just(plain.encode()) | rearranged(plain) | damaged(plain.encode()),
            "train.txt": st.just(listed.encode()) | rearranged(listed) | damaged(listed.encode()),
        }
    )


def build_images(place: Path) -> st.SearchStrategy[Any]:
    small = picture(width=24, height=16)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [saved(small, "JPEG", exif=exif), saved(small, "PNG", exif=exif), saved(small, "TIFF"), saved(small, "BMP")]
    files += [saved(small, "WEBP"), frames("GIF")]
    return st.sampled_from(files).flatmap(damaged)


def read_images(place: Path, content: bytes) -> None:
    file = place / "image"
    file.write_bytes(content)
    facts = decode(file)
    read_size(file)
    if facts.size is None:
        assert facts.problem
        return
    try:
        assert read_image(file).shape == (*facts.size, 3)
    except ImageError as error:
        assert facts.too_large, error


def build_checkpoint(place: Path) -> st.SearchStrategy[Any]:
    sizes = {"width": 32, "heads": 4, "ffn_width": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 6}
    config = DetectorConfig(backbone="test_efficientnet", pretrained=False, **sizes)
    info = CheckpointInfo(config, ClassTable(("cat", "dog"), (3, 7)), 64, (0.5,) * 3, (0.5,) * 3)
    save(place / "best", {"teacher": build_detector(config, 2)}, info)
    content = json.loads((place / "best" / DESCRIPTION).read_text())
    content = {key: value for key, value in content.items() if not key.startswith("checksum")}
    plain = json.dumps(content).encode()
    weights = (place / "best" / WEIGHT_FILES["teacher"]).read_bytes()
    header = 8 + int.from_bytes(weights[:8], "little")
    # How much memory a description may ask for is another question, which the size of the file of weights answers.
    values = st.integers(-3, 70) | st.floats() | st.sampled_from((None, True, [], {}, "", "a", ["a"], 1.5, "resnet18"))
    torn = damaged(weights[:header]).map(lambda head: head + weights[header:]) | damaged(weights)
    return st.tuples(changed(content, values) | damaged(plain) | st.just(plain), torn | st.just(weights))


def read_checkpoint(place: Path, content: tuple[bytes, bytes]) -> None:
    folder = place / "best"
    (folder / DESCRIPTION).write_bytes(content[0])
    (folder / WEIGHT_FILES["teacher"]).write_bytes(content[1])
    try:
        info = read_info(folder)
    except CheckpointError as error:
        assert str(folder) in str(error)
        info = None
    try:
        detector, again = load_checkpoint(place)
    except CheckpointError as error:
        assert str(folder) in str(error)
        return
    assert again == info
    assert all(isinstance(name, str) for name in again.classes.names)
    assert all(type(id) is int for id in again.classes.ids)
    assert not any(parameter.is_meta for parameter in detector.parameters())


def build_foreign(place: Path) -> st.SearchStrategy[Any]:
    state = {key: value.clone() for key, value in official(small("dino", 3), "dino").items()}
    told = [key for key in state if not key.startswith("backbone")]
    keys = st.sampled_from([*told, "backbone.0.body.layer3.1.conv1.weight"])
    shapes = st.lists(st.integers(0, 5), max_size=3).map(lambda shape: torch.zeros(shape))
    arguments = st.fixed_dictionaries({}, optional=dict.fromkeys(("nheads", "num_queries", "dropout", "dilation"), ANY))
    text = st.sampled_from(["transformer.encoder.layers.9.x", "input_proj.7.0.weight", "query_embed.weight", "x"])
    return st.tuples(
        st.just(state),
        st.lists(keys, max_size=3),
        st.dictionaries(keys | text, shapes | ANY, max_size=3),
        arguments | ANY,
        st.none() | damaged(bytes(200)),
    )


def read_others(place: Path, content: tuple[Any, ...]) -> None:
    state, without, instead, arguments, tail = content
    file = place / "model.pth"
    torch.save({"model": {k: v for k, v in state.items() if k not in without} | instead, "args": arguments}, file)
    if tail is not None:
        file.write_bytes(file.read_bytes()[: -len(tail)] + tail)
    try:
        foreign = read_foreign(file)
    except ValueError as error:
        assert str(error)
        return
    assert foreign.num_classes >= 0


TARGETS = {
    "coco": Target(build_coco, read_data),
    "voc": Target(build_voc, read_data),
    "yolo": Target(build_yolo, read_data),
    "images": Target(build_images, read_images),
    "checkpoint": Target(build_checkpoint, read_checkpoint),
    "foreign": Target(build_foreign, read_others),
}


@pytest.mark.parametrize("name", TARGETS)
def test_reader_when_files_are_damaged_then_only_its_own_errors_come_out(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    damage = target.build(tmp_path)

    @settings(CALM, max_examples=QUICK, derandomize=True)
    @given(damage)
    def run(content: Any) -> None:
        target.read(tmp_path, content)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_reader_when_files_are_damaged_for_minutes_then_only_its_own_errors_come_out(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    target = TARGETS[name]
    damage = target.build(tmp_path)
    count, end = 0, time.monotonic() + 60 * MINUTES / len(TARGETS)

    @settings(CALM, max_examples=200)
    @given(damage)
    def run(content: Any) -> None:
        nonlocal count
        count += time.monotonic() < end
        if time.monotonic() < end:
            target.read(tmp_path, content)

    for number in range(10**6):
        if time.monotonic() >= end:
            break
        seed(number)(run)()
    record_property("examples", count)
    print(f"{name}: {count} examples")
