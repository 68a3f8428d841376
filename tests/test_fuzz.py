"""Damaged files raise only the documented errors, and whatever is read is sound.

`python -m pytest -m slow tests/test_fuzz.py` searches for ten minutes (ODDETR_FUZZ_MINUTES), ordinary runs for seconds.
tests/data/corpus.py has what was found in data sets.
"""

import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from oddetr.checkpoints.card import model_card
from oddetr.checkpoints.checkpoint import (
    DESCRIPTION,
    WEIGHT_FILES,
    CheckpointError,
    CheckpointInfo,
    load_checkpoint,
    read_info,
    save_checkpoint,
)
from oddetr.checkpoints.foreign import read_foreign
from oddetr.checkpoints.sharing import without_paths
from oddetr.data.dataset import ClassTable
from oddetr.data.doctor.check import check, print_report
from oddetr.data.images import decode, read_image, read_size
from oddetr.data.reader import DataFolder
from oddetr.evaluation.scores_json import MODELS
from oddetr.models.families.build import DetectorConfig, build_detector
from oddetr.reporting.page import class_rows, compared_classes, differing, headline, run_page, sizes
from oddetr.reporting.record import Record
from oddetr.training.config import TrainConfig
from oddetr.training.safety.replay import ReplayError, replay
from oddetr.training.safety.resume import CONFIGURATION as CONFIG
from oddetr.training.safety.resume import PLAN
from tests.checkpoints.test_conversion import official, small
from tests.data.builders import coco, voc, yolo
from tests.data.corpus import GOOD, LABELS, LISTS, TRAIN, XML, frames, picture, saved
from tests.data.test_corpus import assert_sound
from tests.helpers import small_replay

QUICK = 8
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
    "1_0",
    "9" * 30,
    "0.5",
    "-7",
    "<",
    "&x;",
    "\ud800",
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
    """Bytes cut out, put in, replaced or repeated."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        to = draw(st.sampled_from((at, at + 1, at + 20, len(content))))
        instead = draw(st.sampled_from((b"", 2 * content[at:to])) | st.binary(max_size=8))
        content = content[:at] + instead + content[to:]
    return content


@st.composite
def rearranged(draw: st.DrawFn, text: str) -> bytes:
    """Words, tags and spaces left out, repeated or replaced; or bytes damaged."""
    parts = re.findall(r"<[^>]*>|\s+|[^\s<]+", text)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(parts) - 1))
        parts[at] = draw(st.sampled_from((2 * parts[at], *WORDS)) | st.text(max_size=8))
    content = "".join(parts).encode("utf-8", "surrogatepass")
    return draw(st.just(content) | damaged(content))


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    keys = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in keys for place in [(value, key), *places(inner)]]


@st.composite
def changed(draw: st.DrawFn, content: Any, values: st.SearchStrategy[Any] = ANY) -> bytes:
    """JSON with values replaced, left out or repeated."""
    content = deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        known = places(content)
        if not known:
            break
        container, key = known[draw(st.integers(0, len(known) - 1))]
        what = draw(st.sampled_from(("replace", "replace", "drop", "twice")))
        if what == "drop":
            del container[key]
        elif what == "twice" and isinstance(container, list):
            container.append(deepcopy(container[key]))
        else:
            container[key] = deepcopy(draw(values))  # what is sampled is shared
    return json.dumps(content).encode()


SCORES = {
    **dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "AR"), 0.5),
    "APl": None,
    "per_class": {"cat": 0.5, "dog": None},
    **{name: [0.25, 0.5] for name in ("instability", "normalised_instability", "unstable_score")},
}
CONFIGURATION = TrainConfig(epochs=3, batch_size=2).to_json()

Read = Callable[[Any], None]
"""Writes one damage into the folder, and reads it."""
Target = Callable[[Path], tuple[st.SearchStrategy[Any], Read]]
"""Writes what is sound into an empty folder; gives the damage to do, and what reads."""


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


def build_coco(place: Path) -> tuple[st.SearchStrategy[Any], Read]:
    coco(place)
    text = changed(json.loads(GOOD)) | damaged(GOOD.encode())
    return st.fixed_dictionaries({TRAIN: text}), partial(read_data, place)


def build_voc(place: Path) -> tuple[st.SearchStrategy[Any], Read]:
    voc(place, LISTS)
    sized = XML.replace("<object>", "<size><width>64</width><height>48</height></size><object>", 1)
    sound = {"Annotations/b.xml": sized, "ImageSets/Main/train.txt": "a\nb\n"}
    return st.fixed_dictionaries({file: rearranged(text) for file, text in sound.items()}), partial(read_data, place)


def build_yolo(place: Path) -> tuple[st.SearchStrategy[Any], Read]:
    yolo(place, LABELS)
    sound = {
        "labels/train/b.txt": "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.75 0.25 0.5 0.75\n",
        "data.yaml": "train: train.txt\nval: images/val\nnames: [cat, dog]\nnc: 2\n",
        "train.txt": "images/train/a.jpg\nimages/train/b.jpg\n",
    }
    return st.fixed_dictionaries({file: rearranged(text) for file, text in sound.items()}), partial(read_data, place)


def build_images(place: Path) -> tuple[st.SearchStrategy[Any], Read]:
    small = picture(width=24, height=16)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [saved(small, "JPEG", exif=exif), saved(small, "PNG", exif=exif), saved(small, "TIFF"), saved(small, "BMP")]
    files += [saved(small, "WEBP"), frames("GIF")]
    return st.sampled_from(files).flatmap(damaged), partial(read_images, place / "image")


def read_images(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    facts = decode(file)
    read_size(file)
    if facts.size is None:
        assert facts.problem
        return
    assert read_image(file).shape == (*facts.size, 3)


def build_checkpoint(place: Path) -> tuple[st.SearchStrategy[Any], Read]:
    sizes = {"width": 32, "heads": 4, "ffn_width": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 6}
    config = DetectorConfig(backbone="test_efficientnet", pretrained=False, **sizes)
    info = CheckpointInfo(config, ClassTable(("cat", "dog"), (3, 7)), 64, (0.5,) * 3, (0.5,) * 3)
    info = replace(info, metrics={"teacher": SCORES, "student": SCORES}, configuration=CONFIGURATION, images={"val": 3})
    save_checkpoint(place / "best", {"teacher": build_detector(config, 2)}, info)
    content = json.loads((place / "best" / DESCRIPTION).read_text())
    content = {key: value for key, value in content.items() if not key.startswith("checksum")} | {"format": 1}
    plain = json.dumps(content).encode()
    weights = (place / "best" / WEIGHT_FILES["teacher"]).read_bytes()
    header = 8 + int.from_bytes(weights[:8], "little")
    # How much memory a description may ask for is another question, which the size of the file of weights answers.
    values = st.integers(-3, 70) | st.floats() | st.sampled_from((None, True, [], {}, "", "a", ["a"], 1.5, "resnet18"))
    torn = damaged(weights[:header]).map(lambda head: head + weights[header:]) | damaged(weights)
    parts = st.sampled_from(("configuration", "metrics"))  # which are small beside the classes and sizes
    configured = parts.flatmap(lambda part: changed(content[part]).map(lambda new: content | {part: json.loads(new)}))
    damage = st.tuples(
        changed(content, values)
        | configured.map(lambda new: json.dumps(new).encode())
        | damaged(plain)
        | st.just(plain),
        torn | st.just(weights),
    )
    return damage, partial(read_checkpoint, place)


def read_checkpoint(place: Path, content: tuple[bytes, bytes]) -> None:
    folder = place / "best"
    (folder / DESCRIPTION).write_bytes(content[0])
    (folder / WEIGHT_FILES["teacher"]).write_bytes(content[1])
    with suppress(CheckpointError):
        info = read_info(folder)
        assert all(isinstance(name, str) for name in info.classes.names)
        assert all(type(id) is int for id in info.classes.ids)
        model_card(without_paths(info), "user/name", license=None)
        detector, again = load_checkpoint(place)
        assert again == info
        assert detector.decoder.heads[0].classes.out_features == len(info.classes)


def build_run(place: Path) -> tuple[st.SearchStrategy[Any], Read]:
    train = {"kind": "train", "step": 2, "epoch": 1, "seconds": 0.5, "training_seconds": 0.4, "learning_rate": 1e-3}
    steps = [train | {"step": step, "loss": 3.5, "loss_l1": 1.5, "loss_auxiliary_l1": 1.0} for step in (2, 4, 6)]
    speed = {"images_per_second": 3.0, "waiting_share": 0.1, "peak_memory_gib": 1.0, "training_seconds": 0.4}
    epoch = {"kind": "epoch", "seconds": 1.0, "teacher": SCORES, "student": SCORES} | speed
    epochs = [epoch | {"step": 2 * number, "epoch": number} for number in (1, 2, 3)]
    told = {"data": ["a"], "chosen": [], "cautions": ["b"]}
    sound = {CONFIG: CONFIGURATION, PLAN: told, "metrics.jsonl": [*steps, *epochs]}
    damage = st.fixed_dictionaries(
        {name: st.just(content) | changed(content).map(json.loads) for name, content in sound.items()}
    )
    drawn = st.integers(0, 19).map(lambda number: number == 0)  # a page takes most of a second
    return st.tuples(damage, st.none() | st.sampled_from(list(sound)), drawn), partial(read_run, place)


def read_run(place: Path, content: tuple[dict[str, Any], str | None, bool]) -> None:
    contents, torn, drawn = content
    for name, value in contents.items():
        lines = value if name.endswith("l") and isinstance(value, list) else [value]
        text = "\n".join(map(json.dumps, lines)).encode()
        (place / name).write_bytes(text[: len(text) // 2] if name == torn else text)
    try:
        record = Record.read(place)
    except ValueError:
        return
    told = [headline(record), class_rows(record, None), sizes(record, None), compared_classes([record])]
    assert all(isinstance(part, list) for part in (*told, differing([record, record])))
    assert record.stability().kind
    curves = [*record.losses(), *(record.scores(model, "AP") for model in MODELS)]
    curves += [curve for model in MODELS for curve in record.instability(model)]
    for curve in curves:
        assert np.isfinite(np.asarray(curve.x, np.float64)).all()
        assert np.asarray(curve.y, np.float64).shape == (len(curve.x),)
    if drawn:
        assert run_page(record, None, "no image").startswith("<!doctype html>")


def build_foreign(place: Path) -> tuple[st.SearchStrategy[Any], Read]:
    whole = official(small("dino", 3), "dino")
    blocks = ["layer1.0.conv1", "layer3.0.conv1", "layer3.1.conv1"]
    state = {key: value for key, value in whole.items() if not key.startswith("backbone.")}
    state |= {f"backbone.0.body.{block}.weight": torch.zeros(1) for block in blocks}
    keys = st.sampled_from(list(state))
    others = ("transformer.encoder.layers.9.x", "input_proj.7.0.weight", "query_embed.weight", "module.x", "x")
    shapes = st.lists(st.integers(0, 5), max_size=3).map(lambda shape: torch.zeros(shape))
    names = ("nheads", "num_queries", "dropout", "dilation")
    damage = st.tuples(
        st.lists(keys, max_size=3),
        st.dictionaries(keys | st.sampled_from(others), shapes | ANY, max_size=3),
        st.fixed_dictionaries({}, optional=dict.fromkeys(names, ANY)) | ANY,
        st.none() | damaged(bytes(200)),
    )
    return damage, partial(read_others, place / "model.pth", state)


def read_others(file: Path, state: dict[str, Any], content: tuple[Any, ...]) -> None:
    without, instead, arguments, tail = content
    torch.save({"model": {k: v for k, v in state.items() if k not in without} | instead, "args": arguments}, file)
    if tail is not None:
        file.write_bytes(file.read_bytes()[: -len(tail)] + tail)
    with suppress(ValueError):
        assert read_foreign(file).num_classes >= 0


def build_replay(place: Path) -> tuple[st.SearchStrategy[Any], Read]:
    content = torch.load(small_replay(place), weights_only=True)
    told, tensors = json.loads(content["oddetr replay"]), content["batch"]
    parts = st.sampled_from(sorted(told.keys() - {"info"}))  # which is a checkpoint's
    changes = parts.flatmap(lambda part: changed({part: told[part]}).map(lambda new: told | json.loads(new)))
    kinds = st.sampled_from((torch.float32, torch.float16, torch.int64, torch.bool, torch.uint8))
    shapes = st.lists(st.integers(0, 5), max_size=4)
    others = st.tuples(shapes, kinds).map(lambda found: torch.ones(found[0], dtype=found[1]))
    cast_to = st.tuples(st.sampled_from(sorted(tensors)), kinds).map(lambda to: {to[0]: tensors[to[0]].to(to[1])})
    instead = st.dictionaries(st.sampled_from(sorted(tensors)), others | ANY, max_size=2) | cast_to
    damage = st.tuples(st.just(told) | changes, instead, st.just(content["task"]) | ANY)
    return damage, partial(read_replay, place / "replay.pt")


def read_replay(file: Path, content: tuple[dict[str, Any], dict[str, Any], Any]) -> None:
    told, instead, state = content
    tensors = torch.load(next(file.parent.glob("replay_step_*")), weights_only=True)["batch"] | instead
    torch.save({"oddetr replay": json.dumps(told), "batch": tensors, "task": state}, file)
    with suppress(ReplayError):
        assert all(isinstance(line, str) for line in replay(file).lines())


TARGETS: dict[str, Target] = {
    "coco": build_coco,
    "voc": build_voc,
    "yolo": build_yolo,
    "images": build_images,
    "checkpoint": build_checkpoint,
    "foreign": build_foreign,
    "run": build_run,
    "replay": build_replay,
}
# Pillow warns of odd metadata, which does not concern the pixels.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def search(name: str, place: Path, config: settings, keys: Iterable[int], end: float = math.inf) -> int:
    """Reads damaged files until `end` on the clock, for each key of randomness; returns how many."""
    damage, read = TARGETS[name](place)
    count = 0

    @config
    @given(damage)
    def run(content: Any) -> None:
        nonlocal count
        if time.monotonic() < end:
            count += 1
            read(content)

    for key in keys:
        if time.monotonic() >= end:
            break
        seed(key)(run)()
    return count


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_raise_only_the_errors_of_their_reader(name: str, tmp_path: Path) -> None:
    assert search(name, tmp_path, settings(CALM, max_examples=QUICK), [0])


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_raise_only_the_errors_of_their_reader_for_minutes(name: str, tmp_path: Path) -> None:
    end = time.monotonic() + 60 * MINUTES / len(TARGETS)
    print(f"{name}: {search(name, tmp_path, settings(CALM, max_examples=200), range(10**6), end)} examples")
