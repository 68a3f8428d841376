"""The kinds of faults that a data set can have: how bad each is, what it is called, and what to do about it."""

import re
from dataclasses import dataclass
from functools import partial
from typing import Literal

Severity = Literal["error", "warning"]

FEW = 10
"""A class with fewer training examples than this is reported."""

_PLURAL = re.compile(r"\{(?:([\w ]+)\|)?([\w ]+)\}")


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    A warning is about something that reading has already repaired or left out, or that does no harm to the labels. An
    error makes labels unreliable, and only the data's owner can fix it.

    Attributes:
        severity: how bad it is.
        words: what such faults are called; `{s}` and `{is|are}` stand for singular and plural.
        advice: what to do about them.
        image_in: the field of a `Fault` that names the one image that it is about; `skip_broken` leaves it out.
    """

    severity: Severity
    words: str
    advice: str
    image_in: Literal["file", "image"] | None = None

    def named(self, count: int) -> str:
        """What `count` faults of this kind are called."""
        return _PLURAL.sub(lambda found: (found[1] or "") if count == 1 else found[2], self.words)


_REGIONS = (
    "COCO's crowds and VOC's difficult objects are not learned. CVAT writes what was painted with a brush as "
    "crowds. To learn them as objects: --crowds-as-objects true."
)
_error, _warning = partial(Kind, "error"), partial(Kind, "warning")
_error_of_image, _error_in_image = partial(_error, image_in="file"), partial(_error, image_in="image")
KINDS: dict[str, Kind] = {
    "layout": _error(
        "folder{s} that {is|are} no data {set|sets}",
        "Give the folder that holds the whole data set.",
    ),
    "other-format": _error("folder{s} in a format that is not read", "Give the folder of that export."),
    "malformed-file": _error_in_image(
        "file{s} that cannot be understood",
        "Fix the file, or export it again.",
    ),
    "malformed-record": _error_in_image(
        "malformed {entry|entries}", "Fix these entries, or export the annotations again."
    ),
    "duplicate-split": _error(
        "split{s} that {is|are} defined twice", "Move the file that is not meant out of the folder."
    ),
    "classes": _error(
        "class table{s} that cannot be used", "Give every class one name and one id, the same in all splits."
    ),
    "missing-folder": _error("missing {folder or list|folders or lists}", "Correct the path, or remove its line."),
    "outside-folder": _error(
        "path{s} that {leads|lead} out of the data folder",
        "Move the files into the data folder, and write paths relative to it. If they are yours and should stay where "
        "they are, allow it: --allow-outside true (allow_outside=True).",
    ),
    "unreadable-folder": _error("folder{s} that cannot be listed", "Give yourself the right to read them: chmod u+rx."),
    "unreadable-name": _error_of_image(
        "file{s} whose {name is|names are} not readable text",
        "Rename them, in the annotations too: names are text in UTF-8, without line breaks or control characters.",
    ),
    "other-layout": _error(
        "split{s} whose boxes were written in another way",
        "Export the boxes again as this format wants them, or convert them; then look at some in a picture.",
    ),
    "large-share": _error(
        "fault{s} of a large share of the data",
        "So many are no slips: the export, a path or the choice of files is wrong. Correct that, and check again.",
    ),
    "empty-split": _error("split{s} without any image", "Add its images, or remove the split."),
    "missing-split": _error(
        "split{s} that training needs and that {is|are} not there",
        "Training learns from train and picks its best checkpoint on val, which is held out of train where there is "
        "none: give it a train split of at least two different images.",
    ),
    "no-objects": _error(
        "split{s} of train and val without any object",
        "Look for the labels: they may be in another folder, or belong to other images. Where val was held out of "
        "train, label more images, or make a val split that shows objects.",
    ),
    "only-regions": _error("split{s} with nothing but regions to ignore", _REGIONS),
    "ambiguous-image": _error_of_image(
        "image{s} that cannot be told from others by {its name|their names}",
        "Give every image a name of its own, or sort the label files into folders like those of the images.",
    ),
    "missing-image": _error_of_image(
        "image{s} that {is|are} annotated but not there",
        "Restore the images, or remove their entries from the annotations.",
    ),
    "unreadable-image": _error_of_image(
        "image{s} that cannot be read",
        "Restore the files from their source, or remove them together with their annotations.",
    ),
    "image-too-large": _error_of_image(
        "image{s} that {is|are} too large to be decoded safely",
        "Cut them into tiles or shrink them, and their boxes with them; or allow more: --most-pixels N.",
    ),
    "wrong-size": _error_of_image(
        "image{s} of another size than {its|their} annotations say",
        "The boxes were probably drawn on another version of the image: bring that version back, or scale the boxes. "
        "Only if the boxes do fit the image as it is, correct the width and height in the annotations.",
    ),
    "size-before-turn": _error_of_image(
        "image{s} that EXIF turns after {it was|they were} annotated",
        "If the boxes fit the image as it is stored, take it so: --ignore-exif true. If not, correct width and height "
        "in the annotations.",
    ),
    "duplicate-image-id": _error_in_image(
        "image id{s} used more than once",
        "Give every image its own id, and have each annotation refer to the right one.",
    ),
    "duplicate-file-name": _error_in_image(
        "image file{s} listed under two ids", "Keep one entry for each file, with all of its annotations."
    ),
    "duplicate-annotation-id": _error_in_image(
        "annotation id{s} used more than once",
        "Give every annotation its own id; remove annotations that are copies of one another.",
    ),
    "crowded-image": _error_of_image(
        "image{s} with too many objects to train on",
        "A detector finds as many objects as it has queries, some hundreds: cut these images into tiles. The same "
        "object many times over is a mistake of an export.",
    ),
    "unknown-category": _error(
        "object{s} of {a class that is|classes that are} not in the class table",
        "Add the class to the table, or correct the objects' class.",
    ),
    "not-a-number": _error_in_image(
        "{box|boxes} whose coordinates are not four finite numbers",
        "Correct the numbers (digits and a point, no units), or remove these boxes.",
    ),
    "inverted-box": _error_in_image(
        "inverted {box|boxes}",
        "Right must be greater than left, and bottom greater than top: corners may be swapped, or a corner may be "
        "written where width and height belong.",
    ),
    "box-outside": _error_in_image(
        "{box|boxes} entirely outside {its image|their images}",
        "They may belong to other images, or to another size of these: correct or remove them.",
    ),
    "pixel-coordinates": _error_in_image(
        "{box|boxes} in pixels where YOLO wants shares of the image's size",
        "Divide the centre and the size of each box by the image's width and height (by 100, if they are per cent).",
    ),
    "relative-coordinates": _error(
        "split{s} with boxes that look like shares of the image's size where pixels belong",
        "Multiply x and width by the image's width, y and height by its height.",
    ),
    "zero-area-box": _warning(
        "{box|boxes} without area, left out",
        "These are usually accidental clicks. Draw the box again where an object now goes unlabelled.",
    ),
    "clipped-box": _warning(
        "{box|boxes} partly outside {its image|their images}, clipped",
        "Nothing to do if they reach out by a little; otherwise they may belong to another size of the image.",
    ),
    "repeated-object": _warning(
        "object{s} that {stands|stand} twice in {its image|their images}, used once", "Nothing to do."
    ),
    "emptied-image": _warning(
        "image{s} without objects after faulty ones were left out",
        "Draw their boxes again: as they are, they teach that there is nothing to find.",
    ),
    "many-regions": _warning("split{s} of which many objects are regions to ignore", _REGIONS),
    "similar-classes": _warning(
        "group{s} of classes whose names differ in spelling alone",
        "If they mean the same, give them one name: each class learns from its own examples only.",
    ),
    "conflicting-objects": _warning(
        "box{es} with two classes", "Nothing to do if objects may be of two classes; otherwise remove the wrong one."
    ),
    "deep-colour": _warning(
        "image{s} of 16 bits a colour, of which the upper 8 are used",
        "If the camera fills fewer bits, the image is too dark: save it with 8 bits.",
    ),
    "turned-image": _warning(
        "image{s} that EXIF turns, with boxes of which nothing tells whether they were drawn before",
        "Look at one with its boxes. If they are wrong, --ignore-exif true takes the images as stored.",
    ),
    "unknown-image": _warning(
        "{annotation of an image that is|annotations of images that are} not listed, left out",
        "Nothing to do if the images were removed on purpose.",
    ),
    "animated-image": _warning(
        "file{s} of several pictures, of which the first is used",
        "Nothing to do if the boxes are of the first; otherwise save the other pictures as files of their own.",
    ),
    "repeated-image": _warning("image{s} listed twice, used once", "Remove the second line."),
    "label-without-image": _warning(
        "label file{s} without an image, left out", "Bring the image back, or delete the label file."
    ),
    "image-without-label": _warning(
        "image{s} without a label file, used as {one|ones} without objects",
        "Label them if they show objects: in train, unlabelled objects teach the detector not to see them; in val and "
        "test, what it rightly finds counts as wrong.",
    ),
    "unlisted-image": _warning(
        "image{s} that {is|are} in no split, left out",
        "Nothing to do if they were left out on purpose. Images that show no object are learned from where a split "
        "lists them without objects.",
    ),
    "shared-image": _warning(
        "image{s} to evaluate on that {is|are} also trained on",
        "Remove them from one of the splits: scores on them say nothing about new images.",
    ),
    "nothing-to-score": _warning(
        "split{s} without any object, which cannot be scored",
        "Look for the labels, or remove the split: training does not need it.",
    ),
    "no-examples": _warning(
        "class{es} without an example to train on",
        "The detector cannot learn them. Label some, or remove the classes from the class table.",
    ),
    "few-examples": _warning(
        f"class{{es}} with fewer than {FEW} examples to train on",
        "Expect low scores for them. Label more if they matter.",
    ),
}
"""Everything that is looked for, errors first."""

AT_LEAST = 5
"""Places from which on the share of a fault counts."""
