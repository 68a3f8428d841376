"""Which faults of a data set count: shares that are too large, faults that only follow from others, and what can be
skipped."""

from collections.abc import Iterable, Mapping, Sequence

from oddetr.data.fault_kinds import AT_LEAST, KINDS, OF_ONE_IMAGE, SHARES
from oddetr.data.faults import Fault, by_kind, of_severity

_NAMED_BY_IMAGE = frozenset(
    {
        "ambiguous-image",
        "crowded-image",
        "image-too-large",
        "missing-image",
        "size-before-turn",
        "unreadable-image",
        "unreadable-name",
        "wrong-size",
    }
)
"""Faults of one image whose file is the image."""
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
_MOST_SKIPPED = 1 / 3
"""Share of the images that may be left out as broken: where more are, the fault is the data set's."""


def large_shares(faults: Iterable[Fault], sound: Mapping[str, int]) -> list[Fault]:
    """An error for each kind of warning that touches a large share of the data; see `fault_kinds.SHARES`.

    Args:
        sound: how many boxes, annotations, label files and images are read.
    """
    found: list[Fault] = []
    for kind, group in by_kind(faults).items():
        if kind not in SHARES:
            continue
        (what, share), count = SHARES[kind], len(group)
        total = sound[what] + (0 if kind in ("clipped-box", "emptied-image") else count)
        if count >= AT_LEAST and count > share * total:
            message = f"{count / total:.0%} of the {what} ({count:,} of {total:,}): {KINDS[kind].named(count)}"
            found.append(Fault("large-share", group[0].file, message))
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
    if fault.kind not in OF_ONE_IMAGE or KINDS[fault.kind].severity != "error":
        return ""
    return fault.image or (fault.file if fault.kind in _NAMED_BY_IMAGE else "")


def can_skip(faults: Iterable[Fault], images: int) -> bool:
    """Whether the errors are all of single images, and few enough of the data set's `images` to go on without these."""
    errors = of_severity("error", faults)
    broken = {of_one_image(fault) for fault in errors}
    missing = {fault.file for fault in errors if fault.kind == "missing-image"}
    return bool(errors) and "" not in broken and len(broken) <= _MOST_SKIPPED * (images + len(missing))
