"""The contents of the HTML pages, as plain values for the templates."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int64
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from oddetr import __version__
from oddetr.common.nested import flat
from oddetr.evaluation.detections import Detections
from oddetr.evaluation.scores_json import MODELS
from oddetr.prediction.drawing import draw_detections
from oddetr.reporting.advice import advise
from oddetr.reporting.curves import Curve, Drawing, curves, precision_recall
from oddetr.reporting.findings import Findings
from oddetr.reporting.record import Record
from oddetr.training.records.progress import clock

_SIDE, _QUALITY = 480, 80
"""Size in pixels and JPEG quality of pictures."""
_SHOWN = 6
"""Pictures per group."""
_MOST_CLASSES = 14
"""Maximum number of classes in the confusion matrix; the most confused ones are shown."""
_MOST_LAYERS = 8
"""Maximum number of decoder layers in a figure."""
_INSTABILITY = "normalised instability (0-1)"
Row = tuple[str, str, str]
"""A number of the headline: name, value, remark."""


def run_page(record: Record, found: Findings | None, missing: str) -> str:
    """The page of one run, with the findings of its best detector, or why there are none (`missing`)."""
    names = found.source.classes.names if found else ()
    return render(
        "run.html.jinja",
        run=record,
        headline=headline(record, found),
        advice=advise(record, found) if found else None,
        drawings=drawings(record),
        stability=record.stability(),
        instability=_instability_drawings(record),
        classes=class_rows(record, found),
        found=found,
        missing=missing,
        precision=precision_recall(found.precision, names) if found and found.objects_by_class.any() else None,
        confusion=confusion_table(names, found.confusion) if found else None,
        pictures=_pictures(found) if found else {},
        worst=_worst_of_classes(found) if found else {},
        sizes=sizes(record, found),
        settings=sorted(flat(record.configuration).items()),
        versions=record.info.versions if record.info else {},
    )


def comparison_page(records: Sequence[Record]) -> str:
    """The page of several runs; those with the same name are shown by their paths."""
    names = [record.name for record in records]
    names = [str(record.folder) if names.count(record.name) > 1 else record.name for record in records]
    named = list(zip(names, records, strict=True))
    ap = [replace(record.scores("teacher", "AP"), name=name) for name, record in named]
    instability = [replace(record.last_instability("student"), name=name) for name, record in named]
    return render(
        "runs.html.jinja",
        names=names,
        runs=[(name, record, headline(record), record.stability()) for name, record in named],
        drawings=[
            curves("AP of the teacher, by epoch", ap, "epoch", "AP (0-1)"),
            curves("Instability of the student's matching, by epoch", instability, "epoch", _INSTABILITY),
        ],
        classes=compared_classes(records),
        differing=differing(records),
    )


def render(template: str, **values: Any) -> str:
    """Fill a template of this room; everything except the figures' SVG is escaped."""
    environment = Environment(
        loader=PackageLoader("oddetr.reporting", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = _number
    return environment.get_template(template).render(version=__version__, **values)


def _number(value: float | None) -> str:
    """Format a number, or - if it is not defined."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def headline(record: Record, found: Findings | None = None) -> list[Row]:
    """The most important numbers."""
    rows: list[Row] = []
    if record.best:
        scores, epochs = record.best_scores, record.configuration.get("epochs") or "-"
        remark = "mean over IoU 0.50 to 0.95, best teacher, validation images, 0-1"
        rows = [
            ("AP", _number(scores.get("AP")), remark),
            ("AP50", _number(scores.get("AP50")), "at IoU 0.5"),
            ("best epoch", f"{record.best['epoch']} of {epochs}", "by the teacher's AP"),
        ]
    last = record.epochs[-1] if record.epochs else {}
    seconds, training, share = (last.get(name) for name in ("seconds", "training_seconds", "waiting_share"))
    if seconds is not None:
        other = "" if training is None else f"{clock(seconds - training)} of it validations and checkpoints"
        rows.append(("time", clock(seconds), other))
    if last.get("images_per_second") is not None:
        waiting = "" if share is None else f"{100 * share:.0f} % of the time waiting for data"
        rows.append(("images/s", f"{last['images_per_second']:.1f}", waiting))
    if not math.isnan(last.get("peak_memory_gib") or math.nan):
        rows.append(("memory", f"{last['peak_memory_gib']:.1f} GiB", "at most"))
    if found and (metrics := found.metrics).ap_without_duplicates is not None and not math.isnan(metrics.ap):
        ap, distinct = _number(metrics.ap), _number(metrics.ap_without_duplicates)
        remark = f"AP on {len(found.truth):,} images: {ap}; after class-wise NMS at IoU 0.6: {distinct}"
        rows.append(("duplicates cost", f"{max(metrics.ap_without_duplicates - metrics.ap, 0.0):.3f} AP", remark))
    return rows


def drawings(record: Record) -> list[Drawing]:
    """The figures of AP, losses (one for each group of queries) and learning rate."""
    shown: list[Drawing] = []
    ap = [curve for curve in (record.scores(model, "AP") for model in MODELS) if len(curve.y)]
    if ap:
        shown.append(curves("AP on the validation images, by epoch", ap, "epoch", "AP (0-1)"))
    groups: dict[str, list[Curve]] = {}
    for number, curve in enumerate(curve for curve in record.losses() if len(curve.y)):
        groups.setdefault(curve.name.rpartition(" ")[0] if number else "", []).append(curve)
    for group, lines in groups.items():
        title = f"Loss of the {group} group, by step" if group else "Loss and its own parts, by step"
        shown.append(curves(title, lines, "step", "loss", log=all(min(line.y) > 0 for line in lines)))
    if any("learning_rate" in event for event in record.steps):
        rate = record.over_steps("learning_rate", "learning rate")
        shown.append(curves("Learning rate, by step", [rate], "step", "learning rate"))
    return shown


def _instability_drawings(record: Record) -> list[Drawing]:
    """The figures of instability: teacher and student at the last layer, and the student at every layer."""
    last = [curve for curve in map(record.last_instability, MODELS) if len(curve.y)]
    layers = record.instability("student")[:_MOST_LAYERS]
    titles = ("Matching instability, last layer", "Matching instability of the student's layers")
    shown = [(titles[0], last)] if last else []
    shown += [(titles[1], layers)] if len(layers) > 1 else []
    return [curves(title, lines, "epoch", _INSTABILITY) for title, lines in shown]


def class_rows(record: Record, found: Findings | None) -> list[dict[str, Any]]:
    """Name, AP, score threshold, AP50, what duplicates cost and number of objects of each class."""
    thresholds = record.info.thresholds if record.info else {}
    if not found:
        per_class = record.best_scores.get("per_class", {})
        return [{"name": name, "ap": ap, "threshold": thresholds.get(name)} for name, ap in per_class.items()]
    counts, ap50 = found.objects_by_class.tolist(), found.precision.mean(axis=1).tolist()
    return [
        {
            "name": name,
            "ap": found.metrics.per_class[name],
            "threshold": thresholds.get(name),
            "ap50": ap50[label],
            "duplicates": round(found.distinct.per_class[name] - found.metrics.per_class[name], 3) + 0.0,
            "objects": counts[label],
        }
        for label, name in enumerate(found.source.classes.names)
    ]


def sizes(record: Record, found: Findings | None) -> list[tuple[str, float | None, int | None]]:
    """(size, AP, number of objects) for small, medium and large objects."""
    counts = found.objects_by_size if found else {}
    scores: dict[str, Any] = found.metrics.to_json() if found else record.best_scores
    keys = (("small", "APs"), ("medium", "APm"), ("large", "APl"))
    return [(name, scores.get(key), counts.get(name)) for name, key in keys if scores]


def confusion_table(names: Sequence[str], table: Int64[np.ndarray, "truth found"]) -> dict[str, Any]:
    """The names of rows and columns and the counts of the matrix, or of the most confused classes if there are many."""
    count = len(names)
    wrong = table.sum(axis=1)[:count] + table.sum(axis=0)[:count] - 2 * np.diag(table)[:count]
    shown = np.arange(count) if count <= _MOST_CLASSES else np.sort(np.argsort(-wrong, kind="stable")[:_MOST_CLASSES])
    kept = np.append(shown, count)
    note = f"The {len(shown)} most confused of {count} classes." if len(shown) < count else ""
    labels = [names[label] for label in shown.tolist()]
    rows, columns = [*labels, "no object"], [*labels, "missed"]
    return {"rows": rows, "columns": columns, "counts": table[np.ix_(kept, kept)].tolist(), "note": note}


def _pictures(found: Findings) -> dict[str, list[dict[str, str]]]:
    """Pictures of the best and the worst images, and of random others."""
    ranked = found.ranked()
    count = min(_SHOWN, max(1, len(ranked) // 3))
    others = ranked[count : len(ranked) - count]
    groups = {
        "The best": ranked[:count],
        "The worst": ranked[-count:][::-1] if len(ranked) > 1 else [],
        "A random choice of the others": np.random.default_rng(0).permutation(others)[:count],
    }
    return {title: [_picture(found, int(index)) for index in chosen] for title, chosen in groups.items() if len(chosen)}


def _worst_of_classes(found: Findings) -> dict[str, dict[str, str]]:
    """The picture with most errors of each class, of the classes with most errors."""
    return {name: _picture(found, index) for name, index in found.worst_of_classes(_MOST_CLASSES).items()}


def _picture(found: Findings, index: int) -> dict[str, str]:
    """An image with its objects and with its detections, as data URLs, and a caption."""
    sample, judged, classes = found.source.sample(index), found.judged[index], found.source.classes
    detections = found.detections[sample.image_id].above(found.threshold).clipped(*sample.image.shape[:2])
    there = Detections(sample.boxes, np.ones(len(sample.labels), np.float32), sample.labels).take(~sample.crowd)
    truth = draw_detections(sample.image, there, classes, scores=False)
    shown, f1 = judged.right[judged.scores >= found.threshold], judged.f1(found.threshold)
    hits = f"{shown.sum()} of {judged.objects} objects detected"
    caption = f"{hits}, {(~shown).sum()} false positives, F1 {f1:.2f}"
    pictures = {"objects": truth, "detections": draw_detections(sample.image, detections, classes)}
    urls = {name: data_url(picture, _SIDE) for name, picture in pictures.items()}
    return {"name": sample.name, "caption": caption} | urls


def data_url(picture: Image.Image, side: int) -> str:
    """The picture as a JPEG, whose longer side has `side` pixels at most."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def compared_classes(records: Sequence[Record]) -> list[tuple[str, list[float | None]]]:
    """AP of each class in the best epoch of each run."""
    scores = [record.best_scores.get("per_class", {}) for record in records]
    names = dict.fromkeys(name for each in scores for name in each)
    return [(name, [each.get(name) for each in scores]) for name in names]


def differing(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Options that differ between the runs, except their folders."""
    settings = [flat(record.configuration) for record in records]
    names = dict.fromkeys(name for each in settings for name in each if name not in ("out", "resume"))
    rows = [(name, [str(each.get(name, "not set")) for each in settings]) for name in names]
    return [(name, values) for name, values in rows if len({*values}) > 1]
