"""The first lines of a report: whether a detector is good enough to use, on what it fails, and what to do next."""

from dataclasses import dataclass, field

import numpy as np

from oddetr.common.untrusted import is_number
from oddetr.reporting.findings import Findings
from oddetr.reporting.record import Record
from oddetr.reporting.stability import Kind

GOOD, HELPFUL, WEAK = 0.9, 0.75, 0.5
"""The least F1 at IoU 0.5 of each verdict. These are rules of thumb: only the user knows how many
errors are acceptable."""
FEW = 50
"""With fewer objects a verdict says little."""
FEW_OF_A_KIND = 20
"""With fewer objects of a class, or fewer small ones, nothing is said of them."""
BEHIND = 0.1
"""A class is named if the share of its objects that is found is this much below that of all."""
CONFUSED = 0.1
"""A confusion is named from this share of the objects of a class on, and false alarms from this share of what is
shown."""
COSTLY = 0.02
"""Duplicates are named if they cost this much AP."""
SMALL_BEHIND = 0.6
"""Small objects are named if their AP is below this share of the AP of all."""
RISING = 0.02
"""A run is called too short if its AP rose this much in its last third."""


@dataclass(frozen=True)
class Advice:
    """A verdict in words, what it rests on, and sentences on failures and on what to do next; code in backticks."""

    kind: Kind
    verdict: str
    seen: str
    failures: list[str] = field(default_factory=list[str])
    steps: list[str] = field(default_factory=list[str])


def advise(record: Record, findings: Findings) -> Advice:
    """Judge a run's best detector by the F1 of its detections at its best score threshold."""
    table = findings.confusion
    total, right, shown = int(table[:-1].sum()), int(np.trace(table[:-1, :-1])), int(table[:, :-1].sum())
    if not total:
        return Advice("unknown", "Not known", "There is no object on the validation images.")
    kind, verdict = _verdict(findings.f1)
    seen = (
        f"At a score of {findings.threshold:.2f} it finds {right} of {total} objects with the right class, "
        f"and {right} of its {shown} detections are right (validation images, IoU 0.5)."
    )
    if total < FEW:
        seen += " So few objects say little."
    size = record.configuration.get("image_size") or 0
    enlargeable = is_number(size) and size < float(np.median(findings.truth.sizes.min(axis=1)))
    failures, steps = _failures(findings, enlargeable)
    return Advice(kind, verdict, seen, failures, [*steps, _next_step(record)])


def _verdict(f1: float) -> tuple[Kind, str]:
    if f1 >= GOOD:
        return "stable", "Good enough for many uses"
    if f1 >= HELPFUL:
        return "stable", "Good enough to help a person who checks what it finds"
    if f1 >= WEAK:
        return "moving", "Not reliable yet"
    return "unstable", "Not usable yet"


def _failures(findings: Findings, enlargeable: bool) -> tuple[list[str], list[str]]:
    """What it fails on, and what helps; `enlargeable`: the images have more pixels than the detector sees."""
    table, names, metrics = findings.confusion, findings.source.classes.names, findings.metrics
    objects, found = table[:-1].sum(axis=1), np.diag(table)[:-1]
    failures: list[str] = []
    steps: list[str] = []
    recall = np.where(objects >= FEW_OF_A_KIND, found / np.maximum(objects, 1), np.inf)
    worst = int(recall.argmin())
    if recall[worst] < found.sum() / objects.sum() - BEHIND:
        failures.append(f"{names[worst]}: {found[worst]} of {objects[worst]} are found.")
        steps.append(f"Label more images with {names[worst]}.")
    wrong = table[:-1, :-1] - np.diag(found)
    true, taken = divmod(int(wrong.argmax()), len(names))
    if wrong[true, taken] >= max(2, CONFUSED * objects[true]):
        failures.append(f"{names[true]} is taken for {names[taken]}: {wrong[true, taken]} of {objects[true]}.")
    alarms, shown = int(table[-1, :-1].sum()), int(table[:, :-1].sum())
    if alarms > CONFUSED * shown:
        failures.append(f"{alarms} of {shown} detections show no labelled object, or one that was found already.")
        steps.append("Look at these in the pictures below: are there objects that nobody has labelled?")
    if findings.objects_by_size["small"] >= FEW_OF_A_KIND and metrics.ap_small < SMALL_BEHIND * metrics.ap:
        failures.append(f"Small objects: AP {metrics.ap_small:.2f}, and {metrics.ap:.2f} of all.")
        if enlargeable:
            steps.append("Show the detector larger images (`--image-size`), or tiles of them (`--slice`).")
    duplicates = findings.distinct.ap - metrics.ap
    if duplicates >= COSTLY:
        failures.append(f"Duplicate detections cost {duplicates:.2f} AP.")
    if not failures and recall[worst] < 1:
        failures.append(f"{names[worst]}, the weakest class: {found[worst]} of {objects[worst]} are found.")
    return failures, steps


def _next_step(record: Record) -> str:
    """The next step that does not depend on a failure: the length of the run, or a score on test images."""
    aps = record.scores("teacher", "AP").y
    last = aps[-1 - len(aps) // 3 :]
    if len(aps) > 3 and last[-1] - last[0] > RISING:
        return "Train longer (`--epochs`): AP still rose in the last third of the run."
    if len(aps) > 3 and int(np.argmax(aps)) < len(aps) // 2:
        return "It was best in the first half of the run: train shorter, or label more images."
    return f"Score it on images that nothing was chosen by: `oddetr evaluate {record.folder} --split test`."
