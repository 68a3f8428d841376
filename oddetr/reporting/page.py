"""The contents of the HTML pages, as plain values for the templates."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from oddetr import __version__
from oddetr.common.nested import flat
from oddetr.evaluation.detections import Detections
from oddetr.evaluation.scores import MODELS
from oddetr.prediction.drawing import draw_detections
from oddetr.reporting.figures import Curve, Drawing, curves, precision_recall
from oddetr.reporting.findings import Findings
from oddetr.reporting.record import Record
from oddetr.training.records.progress import clock

_SIDE, _QUALITY = 480, 80
"""Size in pixels and JPEG quality of pictures."""
_SHOWN = 6
"""Pictures per group."""
_MOST_CLASSES = 14
"""Maximum number of classes in the confusion matrix; the most confused ones are shown."""


@dataclass(frozen=True)
class Picture:
    """An image with its objects and with its detections, as data URLs, and a caption."""

    name: str
    there: str
    found: str
    words: str


def number(value: float | None, digits: int = 3) -> str:
    """Format a number, or - if it is not defined."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def render(template: str, **values: Any) -> str:
    """Fill a template; everything except the figures' SVG is escaped."""
    environment = Environment(
        loader=PackageLoader("oddetr.reporting", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "clock": clock}
    return environment.get_template(template).render(version=__version__, **values)


def run_page(record: Record, found: Findings | None, missing: str) -> str:
    """The page of one run.

    Args:
        record: the run.
        found: the findings of its best detector on validation images.
        missing: why there are none, in words.
    """
    return render(
        "run.html.jinja",
        run=record,
        headline=headline(record) + duplicates(found),
        drawings=drawings(record),
        stability=record.stability(),
        instability=instability_drawings(record),
        classes=class_rows(record, found),
        found=found,
        missing=missing,
        precision=precision_recall(found.precision, found.source.classes.names)
        if found and found.objects_by_class.any()
        else None,
        confusion=confusion_table(found.source.classes.names, found.confusion) if found else None,
        pictures=pictures(found) if found else {},
        sizes=sizes(record, found),
        settings=sorted(flat(record.configuration).items()),
        versions=record.info.versions if record.info else {},
    )


def comparison_page(records: Sequence[Record]) -> str:
    """The page of several runs."""
    names = unique_names(records)
    return render(
        "runs.html.jinja",
        names=names,
        runs=[
            (name, record, headline(record), record.stability()) for name, record in zip(names, records, strict=True)
        ],
        drawings=[
            _of_all(names, records, "AP of the teacher, by epoch", "teacher", "AP"),
            _of_all(names, records, "Instability of the student's matching, by epoch", "student", None),
        ],
        classes=compared_classes(records),
        differing=differing(records),
    )


def unique_names(records: Sequence[Record]) -> list[str]:
    """The names of the runs; paths for names that are not unique."""
    names = [record.name for record in records]
    return [str(record.folder) if names.count(record.name) > 1 else record.name for record in records]


def headline(record: Record) -> list[tuple[str, str, str]]:
    """The most important numbers as (name, value, remark)."""
    best, last = record.best, record.epochs[-1] if record.epochs else None
    rows: list[tuple[str, str, str]] = []
    if best:
        scores = best["teacher"]
        rows.append(
            ("AP", number(scores.get("AP")), "mean over IoU 0.50 to 0.95, best teacher, validation images, 0-1")
        )
        rows.append(("AP50", number(scores.get("AP50")), "at IoU 0.5"))
        epochs = record.configuration.get("epochs") or "-"
        rows.append(("best epoch", f"{best['epoch']} of {epochs}", "by the teacher's AP"))
    rows += _costs(last or {})
    rows.append(("cost of OD-DETR", *_distillation(record)))
    return rows


def duplicates(found: Findings | None) -> list[tuple[str, str, str]]:
    """The cost of duplicate detections, as a row of the headline, if known."""
    metrics = found.metrics if found else None
    if metrics is None or metrics.ap_without_duplicates is None or math.isnan(metrics.ap):
        return []
    cost = metrics.ap_without_duplicates - metrics.ap
    remark = f"AP would be {number(metrics.ap_without_duplicates)} after class-wise NMS at IoU 0.6"
    return [("duplicates cost", f"{max(cost, 0.0):.3f} AP", remark)]


def _costs(last: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Time, speed and memory, as far as the log has them."""
    rows: list[tuple[str, str, str]] = []
    seconds, training = last.get("seconds"), last.get("training_seconds")
    if seconds is not None:
        other = "" if training is None else f"{clock(seconds - training)} of it validations and checkpoints"
        rows.append(("time", clock(seconds), other))
    if last.get("images_per_second") is not None:
        share = last.get("waiting_share")
        waiting = "" if share is None else f"{100 * share:.0f} % of the time waiting for data"
        rows.append(("images/s", f"{last['images_per_second']:.1f}", waiting))
    if not math.isnan(last.get("peak_memory_gib") or math.nan):
        rows.append(("memory", f"{last['peak_memory_gib']:.1f} GiB", "at most"))
    return rows


def _distillation(record: Record) -> tuple[str, str]:
    if not record.distilled:
        return "-", "off: this is the baseline, whose teacher is only an average of its weights"
    measured = record.beginning.get("forecast") or {}
    if not {"cost", "cost_low", "cost_high"} <= measured.keys():
        return "-", "on; the cost of a step was not measured in this run"
    spread = f"half of the pairs lay from {measured['cost_low']:.2f} to {measured['cost_high']:.2f}"
    return (
        f"{measured['cost']:.2f}",
        f"time of a step over the baseline's on the same images, measured before the run started; {spread}",
    )


def drawings(record: Record) -> list[Drawing]:
    """The figures of AP, losses and learning rate."""
    shown: list[Drawing] = []
    ap = [curve for curve in (record.scores(model, "AP") for model in MODELS) if len(curve.y)]
    if ap:
        shown.append(curves("AP on the validation images, by epoch", ap, "epoch", "AP (0-1)"))
    losses = [curve for curve in record.losses() if len(curve.y)]
    groups: dict[str, list[Curve]] = {}
    for curve in losses:
        group = curve.name.rpartition(" ")[0] if curve is not losses[0] else ""
        groups.setdefault(group, []).append(curve)
    for group, lines in groups.items():
        title = f"Loss of the {group} group, by step" if group else "Loss and its own parts, by step"
        shown.append(curves(title, lines, "step", "loss", log=all(min(line.y) > 0 for line in lines)))
    if any("learning_rate" in event for event in record.steps):
        rate = record.over_steps("learning_rate", "learning rate")
        shown.append(curves("Learning rate, by step", [rate], "step", "learning rate"))
    return shown


def instability_drawings(record: Record) -> list[Drawing]:
    """The figures of instability: teacher and student at the last layer, and the student at every layer."""
    last = [c for c in (record.last_layer(model, "normalised_instability") for model in MODELS) if len(c.y)]
    layers = record.layers("student", "normalised_instability")
    shown: list[Drawing] = []
    if last:
        shown.append(curves("Matching instability, last layer", last, "epoch", "normalised instability (0-1)"))
    if len(layers) > 1:
        shown.append(curves("Matching instability of the student's layers", layers[:8], "epoch", "instability (0-1)"))
    return shown


def class_rows(record: Record, found: Findings | None) -> list[dict[str, Any]]:
    """Name, AP, AP50 and number of objects of each class."""
    if found:
        counts = found.objects_by_class.tolist()
        ap50 = [float(row.mean()) for row in found.precision]
        names = found.source.classes.names
        return [
            {"name": name, "ap": found.metrics.per_class[name], "ap50": ap50[label], "objects": counts[label]}
            for label, name in enumerate(names)
        ]
    per_class = record.best["teacher"].get("per_class", {}) if record.best else {}
    return [{"name": name, "ap": ap, "ap50": None, "objects": None} for name, ap in per_class.items()]


def sizes(record: Record, found: Findings | None) -> list[tuple[str, float | None, int | None]]:
    """(size, AP, number of objects) for small, medium and large objects."""
    counts = found.objects_by_size if found else {}
    scores: dict[str, Any] = found.metrics.to_json() if found else (record.best["teacher"] if record.best else {})
    keys = (("small", "APs"), ("medium", "APm"), ("large", "APl"))
    return [(name, scores.get(key), counts.get(name)) for name, key in keys if scores]


@dataclass(frozen=True)
class Table:
    """A confusion matrix to show: row and column names, counts, each cell's share of its row, and a note."""

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]
    shares: list[list[float]]
    note: str


def confusion_table(names: Sequence[str], table: Int64[np.ndarray, "truth found"]) -> Table:
    """The matrix, or its part with the most confused classes if there are many."""
    count = len(names)
    wrong = table.sum(axis=1)[:count] + table.sum(axis=0)[:count] - 2 * np.diag(table)[:count]
    shown = np.arange(count) if count <= _MOST_CLASSES else np.sort(np.argsort(-wrong, kind="stable")[:_MOST_CLASSES])
    kept = np.append(shown, count)
    part = table[np.ix_(kept, kept)]
    rows = part / np.maximum(part.sum(axis=1, keepdims=True), 1)
    note = f"The {len(shown)} most confused of {count} classes." if len(shown) < count else ""
    labels = [names[label] for label in shown.tolist()]
    return Table([*labels, "no object"], [*labels, "missed"], part.tolist(), rows.tolist(), note)


def pictures(found: Findings, seed: int = 0) -> dict[str, list[Picture]]:
    """Pictures of the best and the worst images, and of random others."""
    ranked = found.ranked()
    count = min(_SHOWN, max(1, len(ranked) // 3))
    best, worst = ranked[:count], ranked[-count:][::-1]
    others = ranked[count : len(ranked) - count]
    random = np.random.default_rng(seed).permutation(others)[:count]
    groups = {"The best": best, "The worst": worst if len(ranked) > 1 else [], "A random choice of the others": random}

    return {title: [_picture(found, int(index)) for index in chosen] for title, chosen in groups.items() if len(chosen)}


def _picture(found: Findings, index: int) -> Picture:
    sample = found.source.sample(index)
    classes, size = found.source.classes, sample.image.shape[:2]
    detections = found.detections[sample.image_id].above(found.threshold).clipped(*size)
    scores = np.ones(len(sample.labels), np.float32)
    there = Detections(sample.boxes, scores, sample.labels).take(~sample.crowd)
    truth = draw_detections(sample.image, there, classes, scores=False)
    judged = found.judged[index]
    right = int(judged.right[judged.scores >= found.threshold].sum())
    wrong = int((judged.scores >= found.threshold).sum()) - right
    words = f"{right} of {len(there)} objects detected, {wrong} false positives, F1 {judged.f1(found.threshold):.2f}"
    return Picture(sample.name, _url(truth), _url(draw_detections(sample.image, detections, classes)), words)


def _url(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _of_all(names: Sequence[str], records: Sequence[Record], title: str, model: str, score: str | None) -> Drawing:
    lines: list[Curve] = []
    for name, record in zip(names, records, strict=True):
        curve = record.scores(model, score) if score else record.last_layer(model, "normalised_instability")
        lines.append(Curve(name, curve.x, curve.y))
    return curves(title, lines, "epoch", "AP (0-1)" if score else "normalised instability (0-1)")


def compared_classes(records: Sequence[Record]) -> list[tuple[str, list[float | None]]]:
    """AP of each class in the best epoch of each run."""
    scores = [record.best["teacher"].get("per_class", {}) if record.best else {} for record in records]
    names = dict.fromkeys(name for each in scores for name in each)
    return [(name, [each.get(name) for each in scores]) for name in names]


def differing(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Options that differ between the runs, except their folders."""

    settings = [flat(record.configuration) for record in records]
    names = dict.fromkeys(name for each in settings for name in each if name not in ("out", "resume"))
    rows = [(name, [str(each.get(name, "not set")) for each in settings]) for name in names]
    return [(name, values) for name, values in rows if len({*values}) > 1]
