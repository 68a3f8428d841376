"""Detection by a file that `oddetr export` wrote, in ONNX Runtime: the faster way for one image at a time on a CPU."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torchvision.transforms.v2 import functional as F

from oddetr.common.regular_files import require_regular
from oddetr.data.dataset import ClassTable
from oddetr.data.reading_config import ReadingConfig
from oddetr.evaluation.detections import Detections
from oddetr.prediction.onnx import ExportError, WithProcessing
from oddetr.prediction.predictor import THRESHOLD, Predictor
from oddetr.structures import Weights

SUFFIX = ".onnx"
Runtime = Literal["auto", "torch", "onnx"]


@dataclass(frozen=True)
class OnnxPredictor:
    """An exported detector, with what its file's metadata say: `OnnxPredictor.load("model.onnx").detect([image])`.

    Attributes:
        run: images and sizes to boxes, scores and labels, as `WithProcessing.forward`.
        size: (height, width) in pixels of the images that `run` takes.
        classes: names and original ids of the labels in detections.
        reading: how `read_image` reads images for this detector.
        thresholds: the score threshold of each class, in [0, 1]; see `Predictor`.
        slice: the side in pixels of the tiles that the detector was trained on; None: of whole images.
    """

    run: Callable[[UInt8[np.ndarray, "batch height width 3"], Int64[np.ndarray, "batch 2"]], Sequence[np.ndarray]]
    size: tuple[int, int]
    classes: ClassTable
    reading: ReadingConfig
    thresholds: Float64[np.ndarray, " classes"]
    slice: int | None

    @classmethod
    def load(cls, file: Path | str) -> "OnnxPredictor":
        """Opens a file on the CPU.

        Raises:
            ExportError: ONNX Runtime is not installed or cannot read the file, or `oddetr export` did not write it.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ExportError("An ONNX file needs onnxruntime: pip install onnxruntime.") from error
        if not Path(file).exists():
            raise ExportError(f"There is no {file}. Write it first: oddetr export CHECKPOINT --out {file}")
        require_regular(Path(file))
        try:
            session: Any = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no public names
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(f"ONNX Runtime cannot read {file}: {reason}. Export the checkpoint again.") from error
        try:
            return cls._of(session)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ExportError(
                f"{file} is not of oddetr export, or damaged ({type(error).__name__}: {error}): its images, sizes, "
                "boxes, scores, labels or classes are not found. Give a file that `oddetr export` wrote."
            ) from error

    @classmethod
    def _of(cls, session: Any) -> "OnnxPredictor":
        """Reads the file's description.

        Raises:
            KeyError, TypeError, ValueError, RecursionError: it says otherwise, or nothing, of a part.
        """
        metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
        for ends, expected in (
            (session.get_inputs(), WithProcessing.inputs),
            (session.get_outputs(), WithProcessing.outputs),
        ):
            if tuple(end.name for end in ends) != expected:
                raise ValueError(f"it has {', '.join(end.name for end in ends)} in the place of {', '.join(expected)}")
        _, height, width, _ = session.get_inputs()[0].shape
        if type(height) is not int or type(width) is not int:
            raise ValueError("its images have no fixed size")
        classes = ClassTable(*(tuple(json.loads(metadata[name])) for name in ("classes", "class_ids")))
        usual = [THRESHOLD] * len(classes)
        thresholds = np.array(json.loads(metadata["thresholds"]) if "thresholds" in metadata else usual, np.float64)
        if thresholds.shape != (len(classes),):
            raise ValueError(f"it has {thresholds.size} thresholds for {len(classes)} classes")
        return cls(
            run=lambda *given: session.run(None, dict(zip(WithProcessing.inputs, given, strict=True))),
            size=(height, width),
            classes=classes,
            reading=ReadingConfig(grey_bits=int(metadata.get("grey_bits", "16"))),
            thresholds=thresholds,
            slice=int(metadata["slice"]) if "slice" in metadata else None,
        )

    def detect(
        self, images: list[UInt8[np.ndarray, "_ _ 3"]], top_k: int | None = None, labels: Sequence[int] | None = None
    ) -> list[Detections]:
        """Detects on RGB images; gives each one's detections, best first, as `Predictor.detect` does.

        An image is resized to fit into the file's size, and padded. It is seen as by PyTorch where the file's size is
        that to which the predictor resizes it.

        Args:
            top_k: maximum number per image, of those that the file gives.
            labels: the classes to keep of what the file gives, 0..K-1; default: all.
        """
        if not images:
            return []
        found: list[Detections] = []
        for image, boxes, scores, kinds in zip(images, *self.run(*self.inputs(images)), strict=True):
            height, width = image.shape[:2]
            each = Detections(
                boxes * np.array([width, height, width, height], np.float32), scores, kinds.astype(np.int64)
            )
            kept = each if labels is None else each.take(np.isin(kinds, labels))
            found.append(kept if top_k is None else kept.top(top_k))
        return found

    def inputs(
        self, images: list[UInt8[np.ndarray, "_ _ 3"]]
    ) -> tuple[UInt8[np.ndarray, "batch height width 3"], Int64[np.ndarray, "batch 2"]]:
        """What `run` takes: images, resized and padded to `size`, and the (height, width) of each without padding."""
        padded, sizes = np.zeros((len(images), *self.size, 3), np.uint8), np.zeros((len(images), 2), np.int64)
        for place, size, image in zip(padded, sizes, images, strict=True):
            height, width = fitting_shape(image.shape[:2], self.size)
            size[:] = height, width
            pixels = torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1)
            place[:height, :width] = F.resize(pixels, [height, width], antialias=True).permute(1, 2, 0).numpy()
        return padded, sizes


def fitting_shape(shape: Sequence[int], into: Sequence[int]) -> tuple[int, int]:
    """The largest (height, width) of a shape's proportions, to the pixel, inside another."""
    scale = min(into[0] / shape[0], into[1] / shape[1])
    height, width = (max(1, min(most, round(side * scale))) for side, most in zip(shape, into, strict=True))
    return height, width


def open_predictor(checkpoint: Path | str, weights: Weights, runtime: Runtime) -> Predictor | OnnxPredictor:
    """Loads a checkpoint in PyTorch, or an exported file in ONNX Runtime; `auto` goes by the name.

    Raises:
        CheckpointError, ExportError: it cannot be read.
        ValueError: the runtime takes the other kind, or weights are asked of a file that holds one kind.
    """
    exported = Path(checkpoint).suffix.lower() == SUFFIX
    if not exported and runtime == "onnx":
        raise ValueError(
            f"ONNX Runtime takes an exported file, and {checkpoint} is a checkpoint. Export it once "
            f"(oddetr export {checkpoint} --out model.onnx --height H --width W) and give model.onnx in its place."
        )
    if not exported:
        return Predictor.load(checkpoint, weights)
    if runtime == "torch":
        raise ValueError(f"{checkpoint} is an exported file: PyTorch takes the checkpoint that it was made from.")
    if weights != "teacher":
        raise ValueError(f"{checkpoint} holds the weights that it was exported with. Export the {weights}'s instead.")
    return OnnxPredictor.load(checkpoint)
