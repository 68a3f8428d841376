"""Prepare a run: check arguments, read data, make choices, build the detector, and report each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from oddetr.checkpoints.checkpoint import CheckpointInfo, read_info
from oddetr.checkpoints.hub import on_hub
from oddetr.common.durable import writing
from oddetr.data.dataset import ClassTable, Source
from oddetr.data.sources import DIGITS, open_training_sources
from oddetr.models.detector import Detector
from oddetr.models.families.presets import build_detector
from oddetr.models.interface import DetectorSpec
from oddetr.training.beginning import begin
from oddetr.training.config import HUGGING_FACE, TrainConfig, chosen
from oddetr.training.plan.cautions import cautions
from oddetr.training.plan.choice import Facts, Machine, choose, settled
from oddetr.training.precision import refuse_fp16_on_cpu
from oddetr.training.processes import is_first_process, several_processes
from oddetr.training.records.loggers import check_packages
from oddetr.training.safety.resume import CONFIGURATION, check_classes, resumed, steps_done
from oddetr.training.trainer import check_flags

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A run that is about to train.

    Attributes:
        config: the complete configuration.
        out: the run's folder.
        state: the state it goes on from; None for a new run.
        sources: train and val, and test if there is one.
        detector, made_of: with its initial weights, and its configuration.
        said: what was printed of the data, the choices and the cautions.
    """

    config: TrainConfig
    out: Path
    state: Path | None
    sources: dict[str, Source]
    detector: Detector
    made_of: DetectorSpec
    said: dict[str, list[str]]

    @property
    def steps_done(self) -> int:
        """Optimizer steps that are done already."""
        return steps_done(self.state)

    def describe(self, epoch: int, metrics: dict[str, Any]) -> CheckpointInfo:
        """Return the description to write beside the weights after so many epochs."""
        config, detector = self.config, self.detector
        images = {split: len(source) for split, source in self.sources.items() if split in ("train", "val")}
        return CheckpointInfo(
            self.made_of,
            self.sources["train"].classes,
            chosen(config.image_size),
            detector.mean,
            detector.std,
            epoch,
            metrics,
            config.to_json() | {"resume": False},
            images,
        )


def prepare(config: TrainConfig, say: Say, console: Console, given: frozenset[str] = frozenset()) -> Prepared:
    """Prepare a run, new or resumed.

    Args:
        say: prints for the user.
        console: shows the progress of reading.
        given: dotted names of the fields that were given, if only with their default.

    Raises:
        ValueError, DataError, FileExistsError, BackboneWeightsError: see `oddetr.train`.
    """
    config = _checked(config)
    config, state = resumed(config, config.out, say, given) if config.out else (config, None)
    check_flags(config)
    check_packages(config.loggers)
    sources, notes = open_training_sources(
        config.data, config.digits, config.seed, console, is_first_process(), config.allow_outside
    )
    for note in notes:
        say(f"data: {note}")
    classes = sources["train"].classes
    reasons: tuple[str, ...] = ()
    if state is None:
        config, reasons = _chosen(config, sources["train"], say)
    else:
        config = _going_on(config, state, classes, say)
    torch.manual_seed(config.seed)
    detector, made_of = _detector(config, classes)
    if state is None:
        say(f"weights: {begin(config, detector, made_of, classes)}")
    if config.init or config.hugging_face:
        config = replace(config, detector=made_of.to_plain())
    out = config.out or _new_folder(config)
    say(_introduction(config, out, sources))
    warned = _cautions(config, sources, made_of)
    for caution in warned:
        say(f"caution: {caution}")
    said = {"data": list(notes), "chosen": list(reasons), "cautions": warned}
    return Prepared(config, out, state, sources, detector, made_of, said)


def _checked(config: TrainConfig) -> TrainConfig:
    """Check arguments before anything is read, and make paths absolute."""
    if config.out is None and config.resume:
        raise ValueError("--resume goes on with a run: name its folder by --out.")
    if config.out is None and several_processes(config.trainer):
        raise ValueError("A run of several processes needs --out, so that all write to the same folder.")
    refuse_fp16_on_cpu(config.precision, str(config.trainer.get("accelerator", "auto")))
    if config.data != DIGITS:
        config = replace(config, data=str(Path(config.data).resolve()))
    if config.init and not on_hub(config.init):
        config = replace(config, init=config.init.resolve())
    return config


def _chosen(config: TrainConfig, train: Source, say: Say) -> tuple[TrainConfig, tuple[str, ...]]:
    """Fill in what `config` leaves open, and print the reasons."""
    facts = Facts.of_digits(len(train)) if config.data == DIGITS else Facts.of(train.annotations())
    choice = choose(config, facts, Machine.this(config.trainer))
    for reason in choice.reasons:
        say(f"chosen: {reason}")
    return choice.config, choice.reasons


def _going_on(config: TrainConfig, state: Path, classes: ClassTable, say: Say) -> TrainConfig:
    """Complete the configuration of a run that goes on from `state`, and print where that is."""
    check_classes(state, classes)
    out, config = state.parent.parent, settled(config)
    if read_info(state.parent).epoch >= chosen(config.epochs):
        say(f"The run is finished: all its {config.epochs} epochs are done. To train on: --init {out} --out NEW_FOLDER")
    else:
        done = f"{steps_done(state):,}"
        say(f"resuming after {done} steps, with the run's own configuration ({out / CONFIGURATION})")
    return config


def _detector(config: TrainConfig, classes: ClassTable) -> tuple[Detector, DetectorSpec]:
    made_of = config.detector_config().for_classes(classes.names)
    return build_detector(made_of, len(classes)), made_of


def _new_folder(config: TrainConfig) -> Path:
    """Make runs/DATA-MODEL-N; two trainings that start together get one each."""
    model = [config.model.removeprefix(HUGGING_FACE).rpartition("/")[2]] if config.model else []
    name, number = "-".join([Path(config.data).resolve().name, *model]), 1
    with writing(Path("runs")):
        while True:
            folder = Path("runs") / f"{name}-{number}"
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1


def _introduction(config: TrainConfig, out: Path, sources: dict[str, Source]) -> str:
    classes = sources["train"].classes
    shown = [f"{name} ({i})" for name, i in zip(classes.names, classes.ids, strict=True)]
    table = ", ".join(shown[:12]) + (" ..." if len(shown) > 12 else "")
    sizes = ", ".join(f"{name} {len(source)}" for name, source in sources.items())
    return (
        f"classes: {len(classes)}: {table}\n"
        f"images: {sizes}   model: {config.model or config.init}   image size: {config.image_size}   run: {out}"
    )


def _cautions(config: TrainConfig, sources: dict[str, Source], made_of: DetectorSpec) -> list[str]:
    if config.data == DIGITS:
        return []
    train, val = sources["train"].annotations(), sources["val"].annotations()
    return cautions(train, val, sources["train"].classes.names, chosen(config.image_size), made_of.num_queries)
