"""From a checkpoint to an ONNX file that needs no PyTorch, checked in ONNX Runtime before it is called done."""

import importlib
import json
import logging
import math
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from oddetr import __version__
from oddetr.checkpoints.checkpoint import CheckpointInfo, load_checkpoint
from oddetr.data.transforms import LEAST_SIDE
from oddetr.evaluation.postprocessing import best_detections
from oddetr.models.detector import Detector
from oddetr.structures import Weights

OPSET = 18
TOLERANCE = 1e-4
"""The most that a score, or a box relative to the image, may differ between PyTorch and ONNX Runtime."""


class ExportError(RuntimeError):
    """The detector cannot be exported, or the file does not say what PyTorch says."""


@dataclass(frozen=True)
class ExportReport:
    """What `export` wrote: the file, its inputs and outputs by name with their sizes, and the greatest difference."""

    file: Path
    inputs: dict[str, str]
    outputs: dict[str, str]
    difference: float


class WithProcessing(nn.Module):
    """Pixels -> the best detections."""

    inputs = ("images", "sizes")
    outputs = ("boxes", "scores", "labels")
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, detector: Detector, info: CheckpointInfo, top_k: int) -> None:
        super().__init__()
        self.detector, self.top_k = detector, top_k
        self.register_buffer("pixel_mean", torch.tensor(info.mean).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(info.std).view(3, 1, 1))

    def forward(
        self, images: UInt8[Tensor, "batch height width 3"], sizes: Int64[Tensor, "batch 2"]
    ) -> tuple[Float[Tensor, "batch top 4"], Float[Tensor, "batch top"], Int64[Tensor, "batch top"]]:
        """Boxes (x0, y0, x1, y1) relative to the image without padding, scores and labels, best first.

        Args:
            images: RGB, padded at the right and the bottom.
            sizes: (height, width) in pixels of each without padding.
        """
        rows = torch.arange(images.shape[1], device=images.device)
        columns = torch.arange(images.shape[2], device=images.device)
        beyond = (rows >= sizes[:, :1])[:, :, None] | (columns >= sizes[:, 1:])[:, None]
        pixels = (images.permute(0, 3, 1, 2).float() / 255 - self.pixel_mean) / self.pixel_std
        return best_detections(self.detector(pixels * ~beyond[:, None], beyond), self.top_k)

    @staticmethod
    def examples(count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Noise of `size` (height, width), the last image padded to three quarters."""
        sizes = _sizes(count, size)
        noise = torch.Generator().manual_seed(count)
        return torch.randint(256, (count, *size, 3), dtype=torch.uint8, generator=noise), sizes

    @staticmethod
    def difference(ours: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
        """Of an image's detections (boxes, scores, labels), of which `ours` may have more; infinite where a number is
        not finite.

        Scores are compared rank by rank; what was found with the nearest of ours: where two score alike, either may
        come first.
        """
        ranks = np.abs(ours[1][: len(found[1])] - found[1])
        return max(_apart(ours, found)[1], float(ranks.max()))


class Bare(nn.Module):
    """The detector alone: for those who bring their own processing."""

    inputs = ("images", "padding_mask")
    outputs = ("logits", "boxes")

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], padding_mask: Bool[Tensor, "batch height width"]
    ) -> tuple[Float[Tensor, "batch queries classes"], Float[Tensor, "batch queries 4"]]:
        """The last layer's logits, and boxes (cx, cy, w, h) relative to the image without padding, of each query."""
        predictions = self.detector(images, padding_mask)
        return predictions.logits[-1], predictions.boxes[-1]

    @staticmethod
    def examples(count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Noise of `size` (height, width), the last image padded to three quarters."""
        height, width = _sizes(count, size)[-1].tolist()
        beyond = torch.zeros(count, *size, dtype=torch.bool)
        beyond[-1, height:], beyond[-1, :, width:] = True, True
        noise = torch.Generator().manual_seed(count)
        return torch.randn(count, 3, *size, generator=noise) * ~beyond[:, None], beyond

    @staticmethod
    def difference(ours: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
        """Of an image's queries (logits, boxes), logits as scores; infinite where a number is not finite.

        Each query of either side is compared with the nearest of the other: where two are as good, a detector that
        chooses its queries may have them in another order.
        """
        return max(_apart(*([1 / (1 + np.exp(-side[0])), side[1]] for side in (ours, found))))


Exported = WithProcessing | Bare
"""What a file holds."""


def export(
    checkpoint: Path | str,
    out: Path | str = "model.onnx",
    height: int | None = None,
    width: int | None = None,
    processing: bool = True,
    top_k: int | None = None,
    weights: Weights = "teacher",
) -> ExportReport:
    """Writes a detector as ONNX (opset 18, standard operators only), and compares it with PyTorch in ONNX Runtime.

    The number of images is free; their size is fixed: an image of another shape is resized to fit inside, and padded at
    the right and the bottom. The file's metadata hold the classes.

    OpenVINO (2026.4, on a CPU) runs the file as it is, and gave the same to 2e-6 when told to compute in float32
    (`{"INFERENCE_PRECISION_HINT": "f32"}`). Left to itself it takes bfloat16 where the CPU has it: scores moved by up
    to 0.09.

    Args:
        checkpoint: a run's folder (its best), a checkpoint in it, or hf:user/name on the Hub.
        out: the file to write.
        height: pixels of the images; default: the size of the checkpoint's shorter side. What is wider or higher is
            seen at a smaller scale than in training: give both then.
        width: likewise.
        processing: take pixels (uint8), and give the best detections; else take normalised images, and give each
            query's logits and box.
        top_k: detections of an image, where they are processed; default: the detector's number (100; of DINO 300).
        weights: the teacher's, which usually score higher and cost nothing more, or the student's.

    Raises:
        CheckpointError: there is no checkpoint, it cannot be read, or it does not hold these weights.
        ExportError: packages are missing, the detector cannot be exported, or the file's results differ by more than
            1e-4.
        ValueError: a size is too small, `top_k` is less than 1, or `out` is a folder.
        OSError: `out` cannot be written.
    """
    detector, info = load_checkpoint(Path(checkpoint), weights)
    size = (info.image_size if height is None else height, info.image_size if width is None else width)
    return write_onnx(detector, info, Path(out), size, processing, top_k)


def write_onnx(
    detector: Detector,
    info: CheckpointInfo,
    file: Path,
    size: tuple[int, int],
    processing: bool = True,
    top_k: int | None = None,
) -> ExportReport:
    """`export` of a detector in evaluation mode that is in memory; `size`: (height, width)."""
    _need("onnx", "onnxscript", "onnxruntime")
    top_k = detector.top_k if top_k is None else top_k
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1.")
    if min(size) < LEAST_SIDE:
        raise ValueError(f"Images of {size[0]} x {size[1]} pixels are too small: a side needs {LEAST_SIDE} at least.")
    if file.is_dir():
        raise ValueError(f"{file} is a folder. Give the file to write: {file / 'model.onnx'}")
    # Compared with more detections than the file gives, as those that score alike may come in another order.
    module, reference = (
        (WithProcessing(detector, info, count) if processing else Bare(detector)).eval()
        for count in (top_k, 4 * top_k + 100)
    )
    examples, batches = module.examples(2, size), [module.examples(count, size) for count in (1, 3)]
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent) as folder:
        aside = Path(folder) / "model.onnx"
        content = (module, examples, aside, _metadata(info, processing))
        _write(*content)
        try:
            difference = _compare(reference, aside, batches)
        except ExportError:  # the exporter's optimization has lost values of some of transformers' detectors
            _write(*content, optimize=False)
            difference = _compare(reference, aside, batches)
        if difference > TOLERANCE:
            raise ExportError(
                f"ONNX Runtime and PyTorch differ by {difference:.1e} on random images, more than {TOLERANCE:.0e}: "
                f"{file} is not written. Another version of torch, onnxscript or onnxruntime may write it right."
            )
        aside.replace(file)
    return ExportReport(file, *_interface(file), difference)


def _need(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ExportError(f"Export needs {package}: pip install onnx onnxscript onnxruntime.") from error


def _sizes(count: int, size: tuple[int, int]) -> Int64[Tensor, "count 2"]:
    """(height, width) of images, of which the last fills three quarters of `size`."""
    sizes = torch.tensor([size] * count)
    sizes[-1] = sizes[-1] * 3 // 4
    return sizes


def _apart(ours: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> tuple[float, float]:
    """How far any row of ours is from the nearest that was found, and any that was found from the nearest of ours; a
    row is the greatest difference over all parts. Infinite where a number is not finite."""
    rows, others = (
        np.concatenate([np.reshape(part, (len(part), -1)) for part in side], axis=1).astype(np.float32)
        for side in (ours, found)
    )
    if not (np.isfinite(rows).all() and np.isfinite(others).all()):
        return math.inf, math.inf
    apart = np.abs(rows[:, None] - others[None]).max(axis=-1)
    return float(apart.min(axis=1).max()), float(apart.min(axis=0).max())


def _metadata(info: CheckpointInfo, processing: bool) -> dict[str, str]:
    values = {"classes": info.classes.names, "class_ids": info.classes.ids, "mean": info.mean, "std": info.std}
    return {"oddetr": __version__, "processing": str(processing), **{key: json.dumps(v) for key, v in values.items()}}


def _write(
    module: Exported,
    examples: tuple[Tensor, ...],
    file: Path,
    metadata: Mapping[str, str],
    optimize: bool = True,
) -> None:
    batch = torch.export.Dim("batch", min=1, max=1024)
    try:
        with torch.no_grad(), module.detector.exporting(), _quietly():
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                verbose=False,
                optimize=optimize,
                opset_version=OPSET,
                input_names=module.inputs,
                output_names=module.outputs,
                dynamic_shapes=tuple({0: batch} for _ in examples),
            )
    except Exception as error:
        cause = error.__cause__ or error  # the exporter wraps what went wrong in advice
        reason = str(cause).strip().partition("\n")[0]
        raise ExportError(f"torch.onnx cannot export this detector ({type(cause).__name__}: {reason}).") from error
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(file)


@contextmanager
def _quietly() -> Generator[None]:
    """Without the exporter's remarks on its own workings."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _session(file: Path) -> Any:
    try:
        return importlib.import_module("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's kinds of error have no public names
        raise ExportError(f"ONNX Runtime cannot read what torch.onnx wrote: {error}") from error


def _interface(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Types and sizes of the file's inputs and outputs, by name."""
    session = _session(file)
    inputs, outputs = (
        {each.name: f"{each.type[7:-1]} {list(each.shape)}" for each in ends}
        for ends in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


@torch.no_grad()
def _compare(module: Exported, file: Path, batches: Sequence[tuple[Tensor, ...]]) -> float:
    """The greatest difference between PyTorch and the file.

    Raises:
        ExportError: ONNX Runtime cannot run the file.
    """
    session = _session(file)
    names = [each.name for each in session.get_inputs()]
    differences: list[float] = []
    for batch in batches:
        ours = [output.numpy() for output in module(*batch)]
        inputs = {name: tensor.numpy() for name, tensor in zip(names, batch, strict=True)}
        try:
            found = session.run(None, inputs)
        except Exception as error:
            raise ExportError(f"ONNX Runtime cannot run what torch.onnx wrote: {error}") from error
        for image in zip(*ours, *found, strict=True):
            differences.append(module.difference(image[: len(ours)], image[len(ours) :]))
    return max(differences)
