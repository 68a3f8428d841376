"""Prepare a run: check arguments, read data, make choices, build the detector, and report each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console

from oddetr.checkpoints.checkpoint import CheckpointInfo, read_info
from oddetr.common.durable import writing
from oddetr.common.hub_names import PREFIX, on_hub
from oddetr.common.text import listed
from oddetr.data.dataset import DetectionData, Source
from oddetr.data.repeats import Factors, epoch_length, repeat_factors
from oddetr.data.sources import DIGITS, open_training_sources
from oddetr.data.tiles import tiled
from oddetr.models.detector import Detector
from oddetr.models.detector_spec import DetectorSpec
from oddetr.models.families.build import build_detector
from oddetr.training.config import TrainConfig, chosen
from oddetr.training.initial_weights import load_initial_weights
from oddetr.training.plan.cautions import cautions, never_strong
from oddetr.training.plan.choice import Facts, Machine, choose, steps_of, with_fixed_defaults
from oddetr.training.processes import is_first_process, process_count, several_processes
from oddetr.training.records.log import out_of_patience, read_events, teacher_aps
from oddetr.training.records.loggers import check_packages
from oddetr.training.safety.resume import CONFIGURATION, resumed, steps_done
from oddetr.training.trainer import check_flags

Say = Callable[[str], None]
Planner = Callable[["Prepared", TrainConfig], tuple[TrainConfig, str]]
"""(A run with a provisional length, its configuration with `hours`) -> the configuration with `epochs`, the reason."""
ALIKE = 1.05
"""The largest over the smallest aspect ratio up to which batches are not sorted by it."""


@dataclass(frozen=True)
class Prepared:
    """A run that is about to train.

    Attributes:
        config: complete.
        state: the state to continue from; None for a new run.
        sources: train and val, and test if there is one.
        detector: with its initial weights.
        messages: what was printed of the data, the choices and the cautions.
    """

    config: TrainConfig
    out: Path
    state: Path | None
    sources: dict[str, Source]
    detector: Detector
    spec: DetectorSpec
    messages: dict[str, list[str]]

    @property
    def steps_done(self) -> int:
        """Optimizer steps that are done already."""
        return steps_done(self.state)

    def describe(self, epoch: int, metrics: dict[str, Any]) -> CheckpointInfo:
        """Return the description to write beside the weights after so many epochs."""
        return CheckpointInfo(
            self.spec,
            self.sources["train"].classes,
            chosen(self.config.image_size),
            self.detector.mean,
            self.detector.std,
            epoch,
            metrics,
            self.config.to_json() | {"resume": False},
            {split: len(self.sources[split]) for split in ("train", "val")},
        )


def prepare(
    config: TrainConfig,
    say: Say,
    console: Console,
    given: frozenset[str] = frozenset(),
    planner: Planner | None = None,
) -> Prepared:
    """Prepare a run, new or resumed.

    Args:
        console: shows the progress of reading.
        given: dotted names of the fields that were given, if only with their default.
        planner: chooses the length of a run that has `hours`.

    Raises:
        ValueError, DataError, FileExistsError, BackboneWeightsError: see `oddetr.train`.
    """
    config = _checked(config)
    config, state = resumed(config, config.out, say, given) if config.out else (config, None)
    if state is None:
        config = replace(config, resume=False)  # a comparison's jobs resume what there is
    check_flags(config)
    check_packages(config.loggers)
    sources, notes = open_training_sources(
        config.data, config.digits, config.seed, console, is_first_process(), config.reading
    )
    if isinstance(sources["train"], DetectionData):
        config = replace(config, grey_bits=sources["train"].reading.grey_bits)
    if config.slice:
        sources, note = tiled(sources, config.slice)
        notes = (*notes, note)
    _say_each(say, "data", notes)
    train, classes = sources["train"], sources["train"].classes
    reasons: list[str] = []
    if state is None:
        config, reasons = _with_choices(config, sources, planner)
        _say_each(say, "chosen", reasons)
    else:
        config = _continued(config, state, train, say)
    torch.manual_seed(config.seed)
    spec = config.detector_config().for_classes(classes.names)
    detector = build_detector(spec, len(classes))
    if state is None:
        _refuse_random(config, spec)
        say(f"weights: {load_initial_weights(config, detector, spec, classes)}")
    config.set_up(detector)
    if config.init or config.hugging_face:
        config = replace(config, detector=spec.to_plain())
    out = config.out or _new_folder(config)
    say(_introduction(config, out, sources))
    warnings = never_strong(config.augment, chosen(config.epochs))
    if config.data != DIGITS:
        truths = train.annotations(), sources["val"].annotations()
        size, images = chosen(config.image_size), config.augment.most_images
        warnings += cautions(*truths, classes.names, size, spec.num_queries, images)
    _say_each(say, "caution", warnings)
    messages = {"data": list(notes), "chosen": reasons, "cautions": warnings}
    return Prepared(config, out, state, sources, detector, spec, messages)


def _with_choices(
    config: TrainConfig, sources: dict[str, Source], planner: Planner | None
) -> tuple[TrainConfig, list[str]]:
    """The configuration with all that was left open, and the reasons."""
    train, reasons = sources["train"], list[str]()
    facts = replace(Facts.of_source(train), images=examples_of(config, train))
    machine = Machine.this(config.trainer)
    if config.hours and planner:
        provisional, _ = choose(replace(config, hours=None), facts, machine)
        config, reason = planner(_provisional(provisional, sources), config)
        reasons.append(reason)
    config, others = choose(config, facts, machine)
    reasons += others
    if facts.images > len(train):
        reasons.append(f"{facts.images} images an epoch: those of rare classes among the {len(train)} are repeated")
    return config, reasons


def factors_of(config: TrainConfig, train: Source) -> Factors | None:
    """How often each training image is seen in an epoch; None: once."""
    return repeat_factors(train.annotations(), config.repeat_threshold) if config.repeat_threshold else None


def aspects_of(config: TrainConfig, train: Source) -> Float[np.ndarray, " images"] | None:
    """Width over height of each training image; None where all are alike."""
    if config.data == DIGITS:
        return None
    height, width = train.annotations().sizes.T
    aspects = width / height
    return None if aspects.max() < ALIKE * aspects.min() else aspects


def examples_of(config: TrainConfig, train: Source) -> int:
    """Count the training images of an epoch, with those that are repeated."""
    factors = factors_of(config, train)
    return len(train) if factors is None else epoch_length(factors)


def _refuse_random(config: TrainConfig, spec: DetectorSpec) -> None:
    """Raise ValueError if parts would be frozen at random weights."""
    trained = "encoder" if config.init or config.hugging_face else "backbone" if spec.pretrained else "nothing"
    if config.freeze not in ("nothing", trained) and trained != "encoder":
        raise ValueError(
            f"freeze is {config.freeze}, but it would start, and stay, at random weights. Start from a detector "
            "(--init or --model hf:PATH_OR_NAME), or do not freeze it."
        )


def _provisional(config: TrainConfig, sources: dict[str, Source]) -> Prepared:
    """The run with random weights, to be timed."""
    out, classes = config.out or _new_folder(config), sources["train"].classes
    spec = config.detector_config().for_classes(classes.names)
    detector = build_detector(spec, len(classes))
    config.set_up(detector)
    return Prepared(replace(config, out=out), out, None, sources, detector, spec, {})


def _say_each(say: Say, kind: str, messages: Sequence[str]) -> None:
    for message in messages:
        say(f"{kind}: {message}")


def _checked(config: TrainConfig) -> TrainConfig:
    """Check arguments before anything is read, and make paths absolute."""
    if config.out is None and config.resume:
        raise ValueError("--resume continues a run: name its folder with --out.")
    if config.hours and several_processes(config.trainer):
        raise ValueError("--hours times the steps of one process; give --epochs to a run of several.")
    if config.out is None and several_processes(config.trainer):
        raise ValueError("A run of several processes needs --out, so that all write to the same folder.")
    if config.data != DIGITS:
        config = replace(config, data=str(Path(config.data).resolve()))
    if config.init and not on_hub(config.init):
        config = replace(config, init=config.init.resolve())
    return config


def _continued(config: TrainConfig, state: Path, train: Source, say: Say) -> TrainConfig:
    """Complete the configuration of a run that continues from `state`, and print where that is.

    Raises:
        ValueError: the data has other classes than the run.
    """
    out, info, config = state.parent.parent, read_info(state.parent), with_fixed_defaults(config)
    if info.classes.names != train.classes.names:
        raise ValueError(
            f"The run {out} was trained on the classes {', '.join(info.classes.names)}; this data has "
            f"{', '.join(train.classes.names)}. Resume it with its own data, or start a new run."
        )
    epoch, done = info.epoch, steps_done(state)
    early = out_of_patience(teacher_aps(event for event in read_events(out) if event["step"] <= done), config.patience)
    if early or epoch >= chosen(config.epochs):
        why = early or f"all its {config.epochs} epochs are done"
        say(f"The run is finished: {why}. To train on: --init {out} --out NEW_FOLDER")
        return config
    say(f"resuming after {done:,} steps, with the run's own configuration ({out / CONFIGURATION})")
    devices = process_count(config.trainer)
    each, _ = steps_of(config, examples_of(config, train), devices)
    images = chosen(config.batch_size) * config.accumulate * devices
    if caution := other_steps(epoch, done, each, images):
        say(f"caution: {caution}")
    return config


def other_steps(epoch: int, done: int, each: int, images: int) -> str:
    """Say so if a run that did `done` steps in `epoch` epochs and a part of the next now has `each` steps of `images`
    images in an epoch; empty if nothing has changed."""
    if epoch * each <= done <= (epoch + 1) * each:
        return ""
    return (
        f"An epoch has {each:,} steps of {images} images now, but the run did {done:,} in {epoch} epochs: the devices "
        "or the images have changed. Learning rate and schedule were chosen for the steps of before. Resume on as many "
        "devices, with the same images, to train as planned."
    )


def _new_folder(config: TrainConfig) -> Path:
    """Make runs/DATA-MODEL-N; the folder is made at once, so that no other run takes it."""
    model = [config.model.removeprefix(PREFIX).rpartition("/")[2]] if config.model else []
    data = Path(config.data).resolve()
    name, number = "-".join([(data.parent if data.is_file() else data).name, *model]), 1
    with writing(Path("runs")):
        while (folder := Path("runs") / f"{name}-{number}").exists():
            number += 1
        folder.mkdir(parents=True)
    return folder


def _introduction(config: TrainConfig, out: Path, sources: dict[str, Source]) -> str:
    classes = sources["train"].classes
    names = [f"{name} ({i})" for name, i in zip(classes.names, classes.ids, strict=True)]
    sizes = ", ".join(f"{name} {len(source)}" for name, source in sources.items())
    return (
        f"classes: {len(classes)}: {listed(names, 12)}\n"
        f"images: {sizes}   model: {config.model or config.init}   image size: {config.image_size}   run: {out}"
    )
