"""Export of a checkpoint to ONNX, compared with PyTorch in ONNX Runtime before the file is written."""

import json
import logging
import math
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from oddetr import __version__
from oddetr.checkpoints.checkpoint import CheckpointInfo, load_checkpoint
from oddetr.data.reading_config import ReadingConfig
from oddetr.data.transforms import LEAST_SIDE
from oddetr.evaluation.postprocessing import best_detections
from oddetr.models.detector import Detector
from oddetr.structures import Weights

OPSET = 18
TOLERANCE = 1e-4
"""Largest accepted difference of a score, or of a box relative to the image, between PyTorch and ONNX Runtime."""


class ExportError(RuntimeError):
    """The detector cannot be exported, or the file's results differ from PyTorch's."""


@dataclass(frozen=True)
class ExportReport:
    """What `export` wrote.

    Attributes:
        file: the ONNX file.
        inputs, outputs: types and shapes by name.
        difference: the largest from PyTorch.
    """

    file: Path
    inputs: dict[str, str]
    outputs: dict[str, str]
    difference: float


class WithProcessing(nn.Module):
    """Detector with pre- and post-processing: pixels to the best detections."""

    inputs = ("images", "sizes")
    outputs = ("boxes", "scores", "labels")

    def __init__(self, detector: Detector, info: CheckpointInfo, top_k: int) -> None:
        super().__init__()
        self.detector, self.info, self.top_k = detector, info, top_k

    def forward(
        self, images: UInt8[Tensor, "batch height width 3"], sizes: Int64[Tensor, "batch 2"]
    ) -> tuple[Float[Tensor, "batch top 4"], Float[Tensor, "batch top"], Int64[Tensor, "batch top"]]:
        """Boxes (x0, y0, x1, y1) relative to the image without padding, scores and labels, best first.

        Args:
            images: RGB, padded at the right and the bottom.
            sizes: (height, width) in pixels of each without padding.
        """
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.info.mean, self.info.std))
        rows = torch.arange(images.shape[1], device=images.device)
        columns = torch.arange(images.shape[2], device=images.device)
        padding = (rows >= sizes[:, :1])[:, :, None] | (columns >= sizes[:, 1:])[:, None]
        pixels = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std  # the padding is 0 after normalisation
        return best_detections(self.detector(pixels * ~padding[:, None], padding), self.top_k)


def export(
    checkpoint: Path | str,
    out: Path | str = "model.onnx",
    height: int | None = None,
    width: int | None = None,
    top_k: int | None = None,
    weights: Weights = "teacher",
) -> ExportReport:
    """Writes a detector as ONNX (opset 18, standard operators only), if it agrees with PyTorch in ONNX Runtime.

    The number of images is free, their size is fixed: an image of another shape is to be resized to fit inside, and
    padded at the right and the bottom. The file's metadata hold the classes.

    OpenVINO (2026.4, CPU) agrees to 2e-6 with `{"INFERENCE_PRECISION_HINT": "f32"}`; in bfloat16, its default where the
    CPU can, scores moved by up to 0.09.

    Args:
        checkpoint: a run's folder (its best), a checkpoint in it, or hf:user/name on the Hub.
        out: the file to write.
        height: images' height in pixels; default: the checkpoint's shorter side. For images that are not square give
            both: objects get smaller than in training otherwise.
        width: images' width in pixels; default: the checkpoint's shorter side.
        top_k: detections per image; default: the detector's number (100; of DINO 300).
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
    return write_onnx(detector, info, Path(out), size, top_k)


def write_onnx(
    detector: Detector, info: CheckpointInfo, file: Path, size: tuple[int, int], top_k: int | None = None
) -> ExportReport:
    """`export` of a detector in memory, in evaluation mode; `size`: (height, width)."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise ExportError(f"Export needs {package}: pip install onnx onnxscript onnxruntime.")
    top_k = detector.top_k if top_k is None else top_k
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1.")
    if min(size) < LEAST_SIDE:
        raise ValueError(f"Images of {size[0]} x {size[1]} pixels are too small: a side needs {LEAST_SIDE} at least.")
    if file.is_dir():
        raise ValueError(f"{file} is a folder. Give the file to write: {file / 'model.onnx'}")
    # PyTorch gives more detections than the file: those of equal score may come in another order.
    module, reference = (WithProcessing(detector, info, count).eval() for count in (top_k, 4 * top_k + 100))
    batches = [_example(count, size) for count in (1, 2, 3)]
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent) as folder:
        trial = Path(folder) / "model.onnx"
        session, difference = _write_and_compare(module, reference, batches, trial, _metadata(info))
        if difference > TOLERANCE:
            raise ExportError(
                f"ONNX Runtime and PyTorch differ by {difference:.1e} on random images, more than {TOLERANCE:.0e}: "
                f"{file} is not written. Another version of torch, onnxscript or onnxruntime may write it right."
            )
        trial.replace(file)
    inputs, outputs = (
        {each.name: f"{each.type[7:-1]} {list(each.shape)}" for each in ends}
        for ends in (session.get_inputs(), session.get_outputs())
    )
    return ExportReport(file, inputs, outputs, difference)


def _example(count: int, size: tuple[int, int]) -> tuple[UInt8[Tensor, "count _ _ 3"], Int64[Tensor, "count 2"]]:
    """Noise of `size` (height, width), and the images' sizes, of which the last fills three quarters of its sides."""
    sizes = torch.tensor([size] * count)
    sizes[-1] = sizes[-1] * 3 // 4
    noise = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, *size, 3), dtype=torch.uint8, generator=noise), sizes


def _metadata(info: CheckpointInfo) -> dict[str, str]:
    values: dict[str, Any] = {"classes": info.classes.names, "class_ids": info.classes.ids}
    values |= {"mean": info.mean, "std": info.std}
    values["grey_bits"] = ReadingConfig.recorded(info.configuration, False).grey_bits or 16
    if info.thresholds:
        values["thresholds"] = [info.thresholds[name] for name in info.classes.names]
    if side := info.configuration.get("slice"):
        values["slice"] = side
    return {"oddetr": __version__} | {name: json.dumps(value) for name, value in values.items()}


def _write_and_compare(
    module: WithProcessing,
    reference: WithProcessing,
    batches: Sequence[tuple[Tensor, ...]],
    file: Path,
    metadata: Mapping[str, str],
) -> tuple[Any, float]:
    """Writes `module`; opens the file in ONNX Runtime and gives the session, and the difference from `reference`."""
    import onnxruntime

    failure: Exception | None = None
    for optimize in (True, False):  # torch's optimizer breaks the files of some of transformers' detectors
        _write(module, batches[1], file, metadata, optimize)
        try:
            session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
            return session, _compare(reference, session, batches)
        except Exception as error:  # onnxruntime's exceptions have no public names
            failure = error
    raise ExportError(f"ONNX Runtime cannot run what torch.onnx wrote: {failure}") from failure


def _write(
    module: WithProcessing, examples: tuple[Tensor, ...], file: Path, metadata: Mapping[str, str], optimize: bool
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
        cause = error.__cause__ or error  # the exporter wraps the cause in advice
        reason = str(cause).strip().partition("\n")[0]
        raise ExportError(f"torch.onnx cannot export this detector ({type(cause).__name__}: {reason}).") from error
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(file)


@contextmanager
def _quietly() -> Generator[None]:
    """Silences the exporter."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)


@torch.no_grad()
def _compare(module: WithProcessing, session: Any, batches: Sequence[tuple[Tensor, ...]]) -> float:
    """The largest difference between PyTorch and the file over all images."""
    largest = 0.0
    for batch in batches:
        ours = [output.numpy() for output in module(*batch)]
        found = session.run(None, dict(zip(module.inputs, (tensor.numpy() for tensor in batch), strict=True)))
        for image in zip(*ours, *found, strict=True):
            largest = max(largest, difference(image[: len(ours)], image[len(ours) :]))
    return largest


def difference(ours: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Largest difference of one image's detections (boxes, scores, labels): of scores rank by rank, of detections from
    the nearest of `ours`, which may hold more, since those of equal score come in any order. Infinite where a value is
    not finite."""
    first, second = (
        np.concatenate([part.reshape(len(part), -1) for part in side], axis=1, dtype=np.float32)
        for side in (found, ours)
    )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return math.inf
    distances = np.abs(first[:, None] - second).max(axis=-1).min(axis=1)
    ranks = np.abs(ours[1][: len(found[1])] - found[1])
    return float(max(distances.max(), ranks.max()))
