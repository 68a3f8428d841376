"""Train a detector: from a configuration to a run's folder."""

import gc
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from rich.console import Console

from oddetr.common.terminal import Terminal, print_line
from oddetr.data.augmentation import training_data
from oddetr.data.batches import (
    AccumulatedLoader,
    EpochSampler,
    TransformedDataset,
    make_loader,
    shared_with_workers,
    unguarded_script,
)
from oddetr.data.dataset import DetectionData, Source
from oddetr.data.transforms import EvalTransform
from oddetr.distillation.task import DistillationTask
from oddetr.training.config import TrainConfig, chosen
from oddetr.training.distributed import SameSettings, end_others, lost_another
from oddetr.training.module import TrainingModule
from oddetr.training.plan.choice import limited
from oddetr.training.plan.forecast import forecast, is_long, measure
from oddetr.training.plan.hours import KeepingTime, with_length, with_saving
from oddetr.training.plan.preparation import Prepared, aspects_of, factors_of, prepare
from oddetr.training.processes import is_first_process, several_processes
from oddetr.training.records.logged import parameters
from oddetr.training.records.loggers import LoggedRun, open_loggers
from oddetr.training.records.progress import REPORTED, ProgressLine
from oddetr.training.safety.memory import BatchMemoryError, watching_memory
from oddetr.training.safety.nonfinite import NonFiniteStep, StepWatch
from oddetr.training.safety.replay import save_replay
from oddetr.training.safety.resume import agreed, has_checkpoint, save_plan
from oddetr.training.safety.signals import Stopping
from oddetr.training.saving import Recorder
from oddetr.training.trainer import make_trainer, quiet

Loaders = tuple[AccumulatedLoader, AccumulatedLoader]
"""Of training and validation images."""


def run(
    config: TrainConfig,
    console: Console | None = None,
    compared: bool = False,
    given: frozenset[str] = frozenset(),
    report: Callable[..., Any] | None = None,
) -> Path:
    """Train a detector and return the run's folder; `oddetr.train` is this with the configuration's fields.

    Args:
        compared: whether the run is part of a comparison, which has its own forecast and report.
        given: see `prepare`.
        report: writes the run's report (`oddetr.report`); a very short run has none.
    """
    console = (console or Terminal()) if is_first_process() else Console(quiet=True)
    say = partial(print_line, console)
    keeping = KeepingTime()
    try:
        prepared = prepare(config, say, console, given, partial(_plan_hours, keeping, say, time.monotonic()))
        with watching_memory(prepared.config, prepared.out):
            return _train(prepared, console, say, compared, report, keeping)
    except BatchMemoryError as error:
        only_one = not (compared or config.resume or several_processes(config.trainer))
        if not (only_one and error.changes) or has_checkpoint(error.out):
            raise
        smaller = replace(config, out=error.out, **error.changes)
        say(f"{error}\nStarting again with --batch-size {smaller.batch_size} --accumulate {smaller.accumulate}.")
    gc.collect()  # what the attempt held went with its error
    torch.cuda.empty_cache()
    return run(smaller, console, compared, given, report)


def _train(
    prepared: Prepared,
    console: Console,
    say: Callable[[str], None],
    compared: bool,
    report: Callable[..., Any] | None,
    keeping: KeepingTime,
) -> Path:
    """Train a prepared run; its length is forecast unless it fills given hours."""
    config, out = prepared.config, prepared.out
    save_plan(out, config, None if prepared.state else prepared.messages)
    recorder = Recorder(prepared)
    task = DistillationTask(prepared.detector, 1, config.distillation, config.loss, config.matching, config.groups)
    keep, files = partial(_keep, prepared, task), partial(_files, prepared.sources["train"])
    watch = StepWatch(task, config.non_finite, keep, files, say)
    module = TrainingModule(watch, config.optimizer, prepared.sources["val"], config.seed)
    with quiet(), shared_with_workers():
        same = SameSettings(agreed(config, prepared.sources, prepared.steps_done))
        callbacks = [same, keeping, recorder, Stopping(recorder, say), ProgressLine(console, recorder)]
        trainer = make_trainer(config, callbacks)
        loaders = _loaders(prepared, trainer, say)
        alone = not compared and is_long(config, len(loaders[0]))
        # One of several processes cannot time its steps alone.
        if prepared.state is None and alone and not keeping.pace and trainer.world_size == 1:
            with suppress(FloatingPointError):  # the run itself reports such a step, and may skip it
                pace = measure(prepared, task, *loaders, trainer.strategy.root_device)
                say(f"time: {forecast(pace, config, len(loaders[0]))}")
        logged = LoggedRun(out, prepared.steps_done, parameters(prepared.describe(0, {})))
        trainer.loggers = open_loggers(config.loggers, logged, say)
        _fit(trainer, module, loaders, prepared)
    if keeping.pace:
        late = (time.monotonic() - keeping.end) / 3600
        say(f"time: {keeping.hours + late:.3g} of {keeping.hours:g} hours, {task.teacher.steps:,} steps")
    if watch.skipped:
        say(f"skipped steps: {watch.skipped}, whose loss or gradient was not finite")
    if recorder.stopped:
        say(f"stopped: {recorder.stopped}")
    best = f"best teacher AP {recorder.best:.3f} (0-1)" if recorder.best >= 0 else "no AP: nothing to validate on"
    say(f"run: {out}   {best}   evaluate it: oddetr evaluate {out}")
    if report and alone and is_first_process():
        _write_report(report, out, config.allow_outside, say)
    return out


def _plan_hours(
    keeping: KeepingTime, say: Callable[[str], None], start: float, trial: Prepared, wanted: TrainConfig
) -> tuple[TrainConfig, str]:
    """Time `trial`, a run that began at `start`, and tell `keeping`; return `wanted` with the epochs that fit into its
    hours, and the reason."""
    config, hours = trial.config, chosen(wanted.hours)
    say(f"timing steps and a validation, to fill {hours:g} hours")
    task = DistillationTask(trial.detector, 1, config.distillation, config.loss, config.matching, config.groups)
    with quiet(), shared_with_workers(), watching_memory(config, trial.out):
        trainer = make_trainer(config, [])
        loaders, device = _loaders(trial, trainer, say), trainer.strategy.root_device
        seconds = min(max(0.03 * 3600 * hours, 5.0), 120.0)
        pace = measure(trial, task, *loaders, device, batches=1_000_000, seconds=seconds)
    keeping.pace = pace = with_saving(pace, task, trial)
    keeping.hours, keeping.end = hours, start + 3600 * hours
    keeping.most = limited(len(loaders[0]), config.trainer, "train")
    return with_length(replace(wanted, out=trial.out), pace, keeping.most, keeping.end - time.monotonic())


def _loaders(prepared: Prepared, trainer: Trainer, say: Callable[[str], None]) -> Loaders:
    """Make the loaders of training and validation images, of which each process reads its part."""
    config, train, val = prepared.config, prepared.sources["train"], prepared.sources["val"]
    for name, source in (("training", train), ("validation", val)):
        if len(source) < trainer.world_size:
            raise ValueError(f"{len(source)} {name} images are too few for {trainer.world_size} processes: one each.")
    mean, std = prepared.detector.mean, prepared.detector.std
    size, batch_size = chosen(config.image_size), chosen(config.batch_size)
    rank, world = trainer.global_rank, trainer.world_size
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(4, max(0, cores // max(1, trainer.num_devices) - 1)) if config.workers is None else config.workers
    if workers and (script := unguarded_script()):
        say(
            f'{script} has no line `if __name__ == "__main__":`, so that no loading processes can start from it. The '
            "training process loads the images itself, which is slower. Put the call below such a line."
        )
        workers = 0
    examples = training_data(train, size, mean, std, config.augment, chosen(config.epochs), config.seed)
    factors, aspects = factors_of(config, train), aspects_of(config, train)
    order = EpochSampler(len(train), config.seed, True, rank, world, batch_size, factors, aspects)
    training = make_loader(examples, order, batch_size, workers, config.accumulate, chosen(config.pad_to))
    in_order = EpochSampler(len(val), shuffle=False, rank=rank, world_size=world)
    validation = make_loader(TransformedDataset(val, EvalTransform(size, mean, std)), in_order, batch_size, workers)
    return training, validation


def _fit(trainer: Trainer, module: TrainingModule, loaders: Loaders, prepared: Prepared) -> None:
    """Run Lightning's loop. Ctrl-C, which Lightning turns into an exit that ignores further ones, stays
    KeyboardInterrupt; when one of several processes fails, all end."""
    try:
        trainer.fit(module, *loaders, ckpt_path=prepared.state, weights_only=True)
    except SystemExit as stopped:
        end_others(trainer)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt(REPORTED) from stopped
    except BaseException as error:
        end_others(trainer)
        if lost_another(error):
            raise ConnectionError(
                "Another process of this run has ended; what it printed, if anything, says why. Go on after the last "
                f"checkpoint: the same command and --resume (the run's folder: {prepared.out})."
            ) from error
        raise


def _keep(prepared: Prepared, task: DistillationTask, step: NonFiniteStep) -> Path:
    info = prepared.describe(step.place.epoch, {})
    return save_replay(prepared.out, task, info, chosen(prepared.config.precision), step)


def _files(source: Source, ids: Sequence[int]) -> list[str]:
    """The files of images; none if they are generated."""
    if not isinstance(source, DetectionData):
        return []
    places = {image: place for place, image in enumerate(source.truth.image_ids.tolist())}
    return [source.files[places[image]] for image in ids]


def _write_report(report: Callable[..., Any], out: Path, allow_outside: bool, say: Callable[[str], None]) -> None:
    """Write the report of a finished run; an error is printed, and does not fail the run."""
    try:
        say(f"report: {report(out, allow_outside=allow_outside).file}")
    except Exception as error:
        say(f"The report could not be written ({type(error).__name__}: {error}). Try: oddetr report {out}")
