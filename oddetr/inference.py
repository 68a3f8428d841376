"""From a checkpoint to detections: on pictures, and on a data set's split with its scores."""

import json as jsonlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from oddetr.boxes import cxcywh_to_xyxy
from oddetr.checkpoint import CheckpointInfo, Weights, load_checkpoint
from oddetr.data.batches import EpochSampler, TransformedDataset, collate, make_loader
from oddetr.data.dataset import ClassTable, Sample, Source
from oddetr.data.images import EXTENSIONS, ImageError, read_image
from oddetr.data.sources import open_sources
from oddetr.data.transforms import EvalTransform
from oddetr.detections import CocoResult, Detections
from oddetr.drawing import draw_detections
from oddetr.evaluation import Metrics, evaluate_detections
from oddetr.models.detector import Detector
from oddetr.structures import Batch, Predictions

TOP_K = 100
"""Detections kept of an image, as in Deformable-DETR's evaluation."""


def postprocess(predictions: Predictions, sizes: Int64[Tensor, "batch 2"], top_k: int = TOP_K) -> list[Detections]:
    """The last layer's best detections of each image, best first.

    The `top_k` best of all queries' scores for all classes: a query may give several detections. As officially, boxes
    are not cut at the image's edge.

    Args:
        sizes: (height, width) in pixels of the images that the boxes are wanted for.
    """
    boxes, scores, labels = best_detections(predictions, top_k)
    table = torch.cat([boxes, scores[..., None], labels[..., None].float()], dim=-1).cpu()
    extent = sizes.flip(-1).repeat(1, 2)[:, None]
    boxes = table[..., :4] * extent
    return [
        Detections(image_boxes.numpy(), image[:, 4].numpy(), image[:, 5].long().numpy())
        for image, image_boxes in zip(table, boxes, strict=True)
    ]


def best_detections(
    predictions: Predictions, top_k: int = TOP_K
) -> tuple[Float[Tensor, "batch top 4"], Float[Tensor, "batch top"], Int64[Tensor, "batch top"]]:
    """The last layer's best boxes (x0, y0, x1, y1) relative to the unpadded image, their scores and labels."""
    scores = predictions.logits[-1].float().sigmoid()
    classes = scores.shape[-1]
    best, places = scores.flatten(1).topk(min(top_k, scores[0].numel()), dim=1)
    boxes = cxcywh_to_xyxy(predictions.boxes[-1]).gather(1, (places // classes)[..., None].expand(-1, -1, 4))
    return boxes, best, places % classes


@dataclass(frozen=True)
class Predictor:
    """A detector that is ready to look at pictures.

    predictor = Predictor.load("runs/cells")
    (detections,) = predictor.detect([picture])
    """

    detector: Detector
    info: CheckpointInfo
    device: torch.device

    @classmethod
    def load(cls, checkpoint: Path | str, weights: Weights = "teacher") -> "Predictor":
        """Reads a checkpoint (a run's folder: its best) onto the first CUDA device, else the CPU.

        Args:
            weights: the teacher's, which usually score higher and cost nothing more, or the student's.

        Raises:
            CheckpointError: there is none, it cannot be read, or it does not hold these weights.
        """
        detector, info = load_checkpoint(Path(checkpoint), weights)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(detector.to(device), info, device)

    @property
    def classes(self) -> ClassTable:
        """Names and original ids of the labels in detections."""
        return self.info.classes

    @property
    def transform(self) -> EvalTransform:
        """How the detector wants to see an image."""
        return EvalTransform(self.info.image_size, self.info.mean, self.info.std)

    def detect(self, images: list[UInt8[np.ndarray, "_ _ 3"]], top_k: int = TOP_K) -> list[Detections]:
        """Detections of each RGB image, best first.

        Images of different sizes are padded to one; the padding moves scores a little (the pyramid's normalisation sees
        it), as in the official implementation.
        """
        if not images:
            return []
        nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
        samples = [Sample(image, *nothing, image_id=index, name="") for index, image in enumerate(images)]
        return self.detect_batch(collate([self.transform(sample) for sample in samples]), top_k)

    @torch.inference_mode()
    def detect_batch(self, batch: Batch, top_k: int = TOP_K) -> list[Detections]:
        """Detections of each image of a batch, in pixels of the original images."""
        moved = batch.to(self.device)
        return postprocess(self.detector(moved.images, moved.padding_mask), batch.original_sizes, top_k)

    def detect_source(self, source: Source, batch_size: int = 8, workers: int = 0) -> Iterator[tuple[int, Detections]]:
        """(image id, detections) of every image of a source."""
        loader = make_loader(
            TransformedDataset(source, self.transform), EpochSampler(len(source), shuffle=False), batch_size, workers
        )
        for batch in loader:
            yield from zip(batch.image_ids, self.detect_batch(batch), strict=True)


def evaluate(
    checkpoint: Path | str,
    data: str | None = None,
    split: str = "val",
    json: Path | str | None = None,
    batch_size: int = 8,
    weights: Weights = "teacher",
) -> Metrics:
    """COCO scores of a checkpoint on a split.

    Args:
        checkpoint: a run's folder (its best) or a checkpoint in it.
        data: a data set's folder, or `digits`; default: the data that the run was trained on.
        split: train, val or test.
        json: file to write the scores to, all in 0-1.
        batch_size: images per batch.
        weights: the teacher's, which usually score higher and cost nothing more, or the student's.

    Raises:
        CheckpointError: there is no checkpoint, it cannot be read, or it does not hold these weights.
        DataError: the data set has errors.
        ValueError: it has no such split, or classes that the detector does not know.
    """
    if batch_size < 1:
        raise ValueError(f"The batch size is {batch_size}; it must be at least 1.")
    if json is not None:
        Path(json).parent.mkdir(parents=True, exist_ok=True)
    predictor = Predictor.load(checkpoint, weights)
    data = data or predictor.info.configuration.get("data")
    if data is None:
        raise ValueError("The checkpoint does not say what data it was trained on: it was converted. Give --data DIR.")
    sources = open_sources(data)
    if split not in sources:
        raise ValueError(f"The data set has no split {split!r}; it has {', '.join(sources)}.")
    source = sources[split]
    if source.classes.names != predictor.classes.names:
        raise ValueError(
            f"The detector knows the classes {', '.join(predictor.classes.names)}; the data set has "
            f"{', '.join(source.classes.names)}. Scores compare only detectors and data of the same classes."
        )
    detections = dict(predictor.detect_source(source, batch_size))
    metrics = evaluate_detections(source.annotations(), source.classes, detections)
    if json is not None:
        Path(json).write_text(jsonlib.dumps(metrics.to_json(), indent=1))
    return metrics


def find_images(paths: Iterable[Path | str], without: Path | None = None) -> list[Path]:
    """The image files that files, folders (all below them) and globs mean, without repetition, in order.

    Args:
        without: a folder whose files are left out where it lies inside a folder of `paths`: there pictures are written.

    Raises:
        FileNotFoundError: one of them means no image.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inner = without.resolve() if without and without.resolve() != path.resolve() else None
            found_below = (file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
            files = sorted(file for file in found_below if inner not in file.resolve().parents)
        elif path.exists():
            files = [path]
        else:
            base = Path(path.anchor) if path.is_absolute() else Path()
            files = sorted(file for file in base.glob(str(path.relative_to(base))) if file.is_file())
        if not files:
            raise FileNotFoundError(f"No image at {path}: give an image, a folder with images, or a glob in quotes.")
        found.update(dict.fromkeys(files))
    return list(found)


@dataclass(frozen=True)
class PredictionReport:
    """What `predict` wrote: the pictures, the results file, and the files that could not be read."""

    pictures: list[Path]
    results: Path
    unreadable: dict[Path, str]
    objects: int


def predict(
    checkpoint: Path | str,
    paths: str | Path | Sequence[str | Path],
    out: Path | str,
    threshold: float = 0.3,
    batch_size: int = 8,
    weights: Weights = "teacher",
) -> PredictionReport:
    """Finds objects in images; writes a picture of each with its detections, and `detections.json`.

    The file holds COCO's own layout: `images` (id, file_name, width, height), `categories` (id, name: the data set's
    original ids) and `annotations` (id, image_id, category_id, bbox as left, top, width, height in pixels, score).

    Args:
        checkpoint: a run's folder (its best) or a checkpoint in it.
        paths: images, folders, globs.
        out: the folder to write to.
        threshold: the least score, in [0, 1], of what is written.
        batch_size: images per batch.
        weights: the teacher's, which usually score higher and cost nothing more, or the student's.

    Raises:
        CheckpointError: there is no checkpoint, it cannot be read, or it does not hold these weights.
        FileNotFoundError: a path means no image.
        ValueError: the threshold is not in [0, 1], or an image would be overwritten.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"The threshold is {threshold}; scores lie in [0, 1].")
    if batch_size < 1:
        raise ValueError(f"The batch size is {batch_size}; it must be at least 1.")
    folder = Path(out)
    files = find_images([paths] if isinstance(paths, str | Path) else paths, without=folder)
    predictor = Predictor.load(checkpoint, weights)
    pictures = _picture_names(files, folder)
    overwritten = {picture.resolve() for picture in pictures.values()} & {file.resolve() for file in files}
    if overwritten:
        raise ValueError(f"{min(overwritten)} would be overwritten by its own picture. Give another folder by --out.")
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    results: list[CocoResult] = []
    unreadable: dict[Path, str] = {}
    for start in range(0, len(files), batch_size):
        readable = _read_images(files[start : start + batch_size], unreadable)
        for (file, image), found in zip(readable.items(), predictor.detect([*readable.values()]), strict=True):
            height, width = image.shape[:2]
            kept = found.above(threshold).clipped(height, width)
            draw_detections(image, kept, predictor.classes).save(pictures[file])
            images.append({"id": len(images) + 1, "file_name": str(file), "height": height, "width": width})
            results += kept.to_coco(len(images), predictor.classes)
    classes = zip(predictor.classes.ids, predictor.classes.names, strict=True)
    content = {
        "images": images,
        "categories": [{"id": category, "name": name} for category, name in classes],
        "annotations": [{"id": number, **result} for number, result in enumerate(results, start=1)],
    }
    (folder / "detections.json").write_text(jsonlib.dumps(content))
    written = [picture for file, picture in pictures.items() if file not in unreadable]
    return PredictionReport(written, folder / "detections.json", unreadable, len(results))


def _read_images(files: Iterable[Path], unreadable: dict[Path, str]) -> dict[Path, UInt8[np.ndarray, "_ _ 3"]]:
    """The images that can be read; why the others cannot goes into `unreadable`."""
    images: dict[Path, UInt8[np.ndarray, "_ _ 3"]] = {}
    for file in files:
        try:
            images[file] = read_image(file)
        except ImageError as error:
            unreadable[file] = str(error)
    return images


def _picture_names(files: list[Path], folder: Path) -> dict[Path, Path]:
    """A PNG in `folder` for each file; where files of different folders share a name, a number is added."""
    taken: set[str] = set()
    names: dict[Path, Path] = {}
    for file in files:
        name, number = file.stem, 1
        while name in taken:
            number += 1
            name = f"{file.stem}_{number}"
        taken.add(name)
        names[file] = folder / f"{name}.png"
    return names
