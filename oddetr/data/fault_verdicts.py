"""Which faults of a data set count: shares that are too large, faults that only follow from others, and what can be
skipped."""

from collections.abc import Iterable, Sequence

from oddetr.data.fault_kinds import AT_LEAST, KINDS
from oddetr.data.faults import Fault, by_kind, of_severity

_OF_BOXES = frozenset({"box-outside", "clipped-box", "emptied-image", "inverted-box", "zero-area-box"})
_OF_OBJECTS = frozenset(
    {
        "malformed-file",
        "malformed-record",
        "not-a-number",
        "other-layout",
        "pixel-coordinates",
        "relative-coordinates",
        "unknown-category",
        *_OF_BOXES,
    }
)
_LARGE_SHARE = 0.1
"""Share of the data from which on some warnings are errors."""
_MOST_SKIPPED = 1 / 3
"""Share of the images that may be left out as broken: where more are, the fault is the data set's."""


def large_shares(faults: Iterable[Fault], boxes: int, images: int) -> list[Fault]:
    """An error for each kind of warning that touches a large share of the data.

    Args:
        boxes, images: how many are read, those with faults too.
    """
    groups = by_kind(dict.fromkeys(faults))
    counts = {kind: len(groups.get(kind, ())) for kind in KINDS}
    totals = {
        "zero-area-box": ("boxes", boxes),
        "clipped-box": ("boxes", boxes - counts["zero-area-box"]),
        "emptied-image": ("images", images),
        "unknown-image": ("annotations", boxes + counts["unknown-image"]),
        "label-without-image": ("label files", images - counts["image-without-label"] + counts["label-without-image"]),
    }
    found: list[Fault] = []
    for kind, (what, total) in totals.items():
        count = counts[kind]
        if count >= AT_LEAST and count > _LARGE_SHARE * total:
            message = f"{count / total:.0%} of the {what} ({count:,} of {total:,}): {KINDS[kind].named(count)}"
            found.append(Fault("large-share", groups[kind][0].file, message))
    return found


def without_consequences(faults: Sequence[Fault], images: int) -> tuple[Fault, ...]:
    """The faults without those that others explain.

    Boxes in another layout explain boxes that do not fit; sizes in the annotations that are not the images' explain
    both; objects that cannot be read explain splits and classes without objects.

    Args:
        images: of the data set.
    """
    kinds = {fault.kind for fault in faults}
    sizes = sum(fault.kind in ("wrong-size", "size-before-turn") for fault in faults)
    dropped: set[str] = set()
    if sizes > images / 2:
        dropped |= _OF_BOXES | {"other-layout", "large-share"}
    if "other-layout" in kinds:
        dropped |= _OF_BOXES
    if "relative-coordinates" in kinds:
        dropped |= {"other-layout"}
    if any(fault.kind in _OF_OBJECTS for fault in of_severity("error", faults)):
        dropped |= {"no-objects", "no-examples"}
    return tuple(dict.fromkeys(fault for fault in faults if fault.kind not in dropped))


def of_one_image(fault: Fault) -> str:
    """The image that a fault is about, if it is an error of that image alone; else empty."""
    field = KINDS[fault.kind].image_in
    return getattr(fault, field) if field else ""


def can_skip(faults: Iterable[Fault], images: int) -> bool:
    """Whether the errors are all of single images, and few enough of the data set's `images` to go on without these."""
    errors = of_severity("error", faults)
    broken = {of_one_image(fault) for fault in errors}
    missing = {fault.file for fault in errors if fault.kind == "missing-image"}
    return bool(errors) and "" not in broken and len(broken) <= _MOST_SKIPPED * (images + len(missing))
