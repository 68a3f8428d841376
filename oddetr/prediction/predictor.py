"""Detection with a checkpoint: on images in memory, and on a data set's split with its scores."""

import json as jsonlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from rich.console import Console
from rich.progress import track

from oddetr.checkpoints.checkpoint import CheckpointInfo, load_checkpoint
from oddetr.checkpoints.sharing import Pretrained
from oddetr.common.hub_names import PREFIX
from oddetr.common.text import listed
from oddetr.data.batches import EpochSampler, TransformedDataset, collate, make_loader
from oddetr.data.dataset import ClassTable, Sample, Source
from oddetr.data.reading_config import ReadingConfig
from oddetr.data.sources import open_sources
from oddetr.data.transforms import EvalTransform
from oddetr.evaluation.coco import Metrics, evaluate_detections, metrics_without_duplicates
from oddetr.evaluation.detections import Detections
from oddetr.evaluation.postprocessing import postprocess
from oddetr.models.detector import Detector
from oddetr.structures import Batch, Weights

BATCH_SIZE = 8
"""Default where a checkpoint does not record the run's."""
THRESHOLD = 0.3
"""Minimum score of what is shown where nothing else is known."""
MAX_BATCH = 64
"""Limit on the batch size that a checkpoint records, which may come from anyone."""


@dataclass(frozen=True)
class Predictor(Pretrained):
    """A detector with all it needs to process images: `(found,) = Predictor.load("runs/cells").detect([image])`.

    Attributes:
        info: the detector's configuration, classes and image size.
        device: it computes on.
        weights: the teacher's or the student's.
        checkpoint: it was read from.
    """

    detector: Detector
    info: CheckpointInfo
    device: torch.device
    weights: Weights = "teacher"
    checkpoint: Path | None = None

    @classmethod
    def load(cls, checkpoint: Path | str, weights: Weights = "teacher") -> "Predictor":
        """Reads a checkpoint (a run's folder: its best; or hf:user/name) onto the first CUDA device, else the CPU.

        Raises:
            CheckpointError: there is none, it cannot be read, or it does not hold these weights.
        """
        detector, info = load_checkpoint(Path(checkpoint), weights)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(detector.to(device), info, device, weights, Path(checkpoint))

    @property
    def classes(self) -> ClassTable:
        """Names and original ids of the labels in detections."""
        return self.info.classes

    @property
    def thresholds(self) -> Float64[np.ndarray, " classes"]:
        """The score threshold of each class: of best F1 on the validation images, or `THRESHOLD` where the checkpoint
        has none, as for the student."""
        known = self.info.thresholds if self.weights == "teacher" else {}
        return np.array([known.get(name, THRESHOLD) for name in self.classes.names])

    @property
    def slice(self) -> int | None:
        """The side in pixels of the tiles that the detector was trained on; None: of whole images."""
        return self.info.configuration.get("slice")

    @property
    def reading(self) -> ReadingConfig:
        """How `read_image` reads images for this detector: grey values of 16 bits as in its training."""
        return ReadingConfig(grey_bits=ReadingConfig.recorded(self.info.configuration, False).grey_bits)

    @property
    def transform(self) -> EvalTransform:
        """Resizing and normalisation of the detector's images."""
        return EvalTransform(self.info.image_size, self.info.mean, self.info.std)

    def detect(
        self, images: list[UInt8[np.ndarray, "_ _ 3"]], top_k: int | None = None, labels: Sequence[int] | None = None
    ) -> list[Detections]:
        """Detects on RGB images; gives each one's detections, best first.

        Images of different sizes are padded to one, which moves scores a little, as in the official implementation.

        Args:
            top_k: maximum number per image; default: the official one (`Detector.top_k`).
            labels: the classes to detect, 0..K-1; default: all.
        """
        if not images:
            return []
        nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
        samples = [Sample(image, *nothing, image_id=index, name="") for index, image in enumerate(images)]
        return self.detect_batch(collate([self.transform(sample) for sample in samples]), top_k, labels)

    @torch.inference_mode()
    def detect_batch(
        self, batch: Batch, top_k: int | None = None, labels: Sequence[int] | None = None
    ) -> list[Detections]:
        """Detects on a batch; gives detections in pixels of the original images. Arguments as of `detect`."""
        moved = batch.to(self.device)
        found = self.detector(moved.images, moved.padding_mask)
        return postprocess(found, batch.original_sizes, top_k or self.detector.top_k, labels)

    def detect_source(
        self,
        source: Source,
        batch_size: int | None = None,
        console: Console | None = None,
        slice: int | None = None,
    ) -> Iterator[tuple[int, Detections]]:
        """Yields (image id, detections with the source's labels) of every image of a source.

        Args:
            source: its classes must be among the detector's.
            batch_size: images per batch; default: the run's, at most `MAX_BATCH`, as in its validation.
            console: shows progress, if it is a terminal; None is silent.
            slice: the side in pixels of slices to detect in, see `detect_sliced`; None or 0: whole images.

        Raises:
            ValueError: the source has classes that the detector does not know.
        """
        known, wanted = self.classes.names, source.classes.names
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ValueError(
                f"The data set has classes that the detector does not know: {listed(unknown, 10)}. It knows "
                f"{listed(known, 10)}. Rename them in the data, or train on it (--init carries known classes over)."
            )
        labels = [known.index(name) for name in wanted]
        found = self._of_slices(source, slice, labels) if slice else self._of_images(source, batch_size, labels)
        silent = console is None or not console.is_terminal
        for image, each in track(found, "Detecting", len(source), console=console, transient=True, disable=silent):
            yield image, each.among(labels)

    def _of_images(self, source: Source, batch_size: int | None, labels: list[int]) -> Iterator[tuple[int, Detections]]:
        recorded: int = self.info.configuration.get("batch_size") or BATCH_SIZE
        loader = make_loader(
            TransformedDataset(source, self.transform),
            EpochSampler(len(source), shuffle=False),
            batch_size or min(recorded, MAX_BATCH),
            workers=0,
        )
        for batch in loader:
            yield from zip(batch.image_ids, self.detect_batch(batch, labels=labels), strict=True)

    def _of_slices(self, source: Source, slice: int, labels: list[int]) -> Iterator[tuple[int, Detections]]:
        from oddetr.prediction.slicing import detect_sliced

        for sample in map(source.sample, range(len(source))):
            yield sample.image_id, detect_sliced(self, sample.image, slice, 0.0, labels)


def evaluate(
    checkpoint: Path | str,
    data: str | None = None,
    split: str = "val",
    json: Path | str | None = None,
    batch_size: int | None = None,
    slice: int | None = None,
    weights: Weights = "teacher",
    allow_outside: bool = False,
    ignore_exif: bool = False,
    console: Console | None = None,
) -> Metrics:
    """Computes COCO scores of a checkpoint on a split; classes of the detector that the data lack are left out.

    Args:
        checkpoint: a run's folder (its best), a checkpoint in it, or hf:user/name on the Hub.
        data: a data set's folder, or `digits`; default: the data that the run was trained on.
        split: train, val or test.
        json: file to write the scores to, all in 0-1.
        batch_size: images per batch; default: the run's, at most 64, which reproduces the scores of its validation (up
            to rounding: here all is float32).
        slice: detect as `predict` does with this option, in overlapping squares of this side in pixels. Default: that
            of the training, whose own scores are of tiles, not of whole images; 0: whole images only.
        weights: the teacher's, which usually score higher and cost nothing more, or the student's.
        allow_outside: follow paths and links out of the data's folder, which is refused otherwise.
        ignore_exif: take the images of `data` as stored, not turned by their EXIF orientation. The data that the run
            was trained on is read as it was then.
        console: shows progress, if it is a terminal; None is silent.

    Raises:
        CheckpointError: there is no checkpoint, it cannot be read, or it does not hold these weights.
        DataError: the data set has errors.
        ValueError: it has no such split, or classes that the detector does not know.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"The batch size is {batch_size}; it must be at least 1.")
    if json is not None:
        if Path(json).is_dir():
            raise ValueError(f"{json} is a folder. Give the file to write the scores to.")
        Path(json).parent.mkdir(parents=True, exist_ok=True)
    predictor = Predictor.load(checkpoint, weights)
    reading = ReadingConfig.recorded(predictor.info.configuration, allow_outside)
    if data is not None:
        reading = ReadingConfig(allow_outside, ignore_exif, grey_bits=reading.grey_bits)
    data = data or predictor.info.configuration.get("data")
    if data is None:
        raise ValueError("The checkpoint does not say what data it was trained on: it was converted. Give --data DIR.")
    sources = open_sources(data, reading=reading)
    if split not in sources:
        raise ValueError(f"The data set has no split {split!r}; it has {', '.join(sources)}.")
    source = sources[split]
    slice = predictor.slice if slice is None else slice
    detections = dict(predictor.detect_source(source, batch_size, console, slice))
    truth, classes = source.annotations(), source.classes
    distinct = metrics_without_duplicates(truth, classes, detections)
    metrics = replace(evaluate_detections(truth, classes, detections), ap_without_duplicates=distinct.ap)
    if json is not None:
        Path(json).write_text(jsonlib.dumps(metrics.to_json(), indent=1))
    return metrics


def push(
    checkpoint: Path | str, to: str, private: bool = False, student: bool = False, license: str | None = None
) -> str:
    """Uploads a checkpoint and its model card to the Hugging Face Hub; returns the commit's address.

    Args:
        checkpoint: a run's folder (its best), a checkpoint in it, or hf:user/name on the Hub.
        to: the repository, user/name; made if there is none.
        private: make it a private one.
        student: the student's weights too.
        license: of the weights, for example apache-2.0; default: the card names none.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read; HubError: the repository cannot be written.
    """
    predictor = Predictor.load(checkpoint)
    return predictor.push_to_hub(to.removeprefix(PREFIX), student=student, license=license, private=private or None)
