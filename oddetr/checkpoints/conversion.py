"""Convert official and transformers' checkpoints to oddetr's, which `evaluate`, `predict` and `train --init` read."""

from collections.abc import Sequence
from pathlib import Path

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from oddetr.checkpoints.checkpoint import DESCRIPTION, CheckpointInfo, save_checkpoint
from oddetr.checkpoints.foreign import Foreign, load_official_state, read_foreign
from oddetr.data.dataset import ClassTable
from oddetr.data.transforms import LEAST_SIDE, MOST_SIDE
from oddetr.models.families.build import build_detector

_COCO: Sequence[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
"""COCO's class names by id; some ids are unused."""
IMAGE_SIZE = 800
"""Shorter side of the official detectors' images, in pixels."""


def convert(file: Path | str, to: Path | str, classes: Path | str | None = None, image_size: int = IMAGE_SIZE) -> Path:
    """Convert an official Deformable-DETR, DAB-Deformable-DETR or DINO checkpoint (.pth), or a folder of transformers'
    DeformableDetr, to a checkpoint of oddetr.

    Files are read as weights only: nothing in them is run. The number of attention heads cannot be seen from weights;
    if the file lacks the official training's arguments, it is taken to be the official 8.

    Args:
        file: the .pth file, or the folder with config.json and model.safetensors.
        to: the folder to write; a checkpoint there is replaced.
        classes: a text file with a class name on each line, in the order of the detector's outputs; default: those in
            the checkpoint, or COCO's 80 if it has the official 91 outputs.
        image_size: the shorter side, in pixels, to which images are resized.

    Raises:
        ValueError: the file is none of these, its weights do not fit, or its classes are unknown; says which.
        FileExistsError: `to` holds something other than a checkpoint.
    """
    if not LEAST_SIDE <= image_size <= MOST_SIDE:
        raise ValueError(f"image_size is {image_size}; it must lie in {LEAST_SIDE}-{MOST_SIDE:,}.")
    folder = Path(to)
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not empty and not (folder / DESCRIPTION).is_file():
        raise FileExistsError(f"{to} holds something other than a checkpoint. Give a new folder.")
    foreign = read_foreign(Path(file))
    names = foreign.classes
    if classes is not None:
        names = tuple(line.strip() for line in Path(classes).read_text().splitlines() if line.strip())
    table, foreign = _with_classes(foreign, names)
    detector = build_detector(foreign.config, len(table)).eval()
    load_official_state(detector, foreign.state)
    info = CheckpointInfo(foreign.config, table, image_size, detector.mean, detector.std)
    save_checkpoint(folder, {"teacher": detector}, info)
    return folder


def _with_classes(foreign: Foreign, names: Sequence[str]) -> tuple[ClassTable, Foreign]:
    """Return the class table, and the checkpoint with only its outputs: 80 of the official 91 for COCO are used."""
    outputs = foreign.num_classes
    if not names and outputs == len(_COCO):
        ids = tuple(index for index, name in enumerate(_COCO) if name not in ("__background__", "N/A"))
        return ClassTable(tuple(_COCO[index] for index in ids), ids), foreign.take_classes(ids)
    if len(names) != outputs:
        found = f"{len(names)} names were given" if names else "its classes are not known"
        raise ValueError(
            f"The checkpoint has {outputs} class outputs, and {found}. Give --classes FILE, a text file with "
            f"{outputs} lines: the classes' names in the order of the outputs."
        )
    return ClassTable(tuple(names), tuple(range(outputs))), foreign
