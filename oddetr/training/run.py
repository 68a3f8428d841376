"""`train`: from arguments to a run's folder."""

import inspect
import logging
import os
import signal
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from rich.console import Console

from oddetr.checkpoint import CheckpointInfo
from oddetr.data.batches import AccumulatedLoader, EpochSampler, TransformedDataset, make_loader
from oddetr.data.dataset import ClassTable, DetectionData, Source
from oddetr.data.sources import DIGITS, open_training_sources
from oddetr.data.transforms import EvalTransform, TrainTransform
from oddetr.distillation.task import DistillationTask
from oddetr.hub import on_hub
from oddetr.models.detector import Detector
from oddetr.models.huggingface import HuggingFaceConfig
from oddetr.models.presets import DetectorConfig, build_detector
from oddetr.training.beginning import begin
from oddetr.training.cautions import cautions
from oddetr.training.choice import Facts, Machine, choose, settled
from oddetr.training.config import Precision, TrainConfig, chosen
from oddetr.training.forecast import Forecast, forecast, is_long
from oddetr.training.logged import parameters
from oddetr.training.logger_kinds import LoggedRun
from oddetr.training.loggers import check_packages, open_loggers
from oddetr.training.module import TrainingModule
from oddetr.training.nonfinite import Accident, StepWatch
from oddetr.training.processes import is_first_process, several_processes
from oddetr.training.progress import ProgressLine
from oddetr.training.recorder import Recorder
from oddetr.training.replay import save_replay
from oddetr.training.resume import CONFIGURATION, check_classes, resumed, save_beginning, save_configuration, steps_done
from oddetr.training.stopping import Stopping

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_ADVICE = (
    ".*does not have many workers.*",
    ".*`broadcast_buffers` is deprecated.*",
    ".*module.s. in eval mode at the start of training.*",
    ".*your dataloader is not resumable.*",
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",
)


def train(**arguments: Any) -> Path:
    """Trains a detector and returns the run's folder. The arguments are the fields of `TrainConfig`.

        import oddetr
        run = oddetr.train(data="cells", model="deformable_detr_refine_tiny", epochs=50)

    Raises:
        ValueError: a field that is unknown or out of range.
        DataError: the data set has errors.
        FileExistsError: the folder holds a run already and `resume` is off.
        BackboneWeightsError: the backbone's ImageNet weights cannot be had.
        FloatingPointError: the training has diverged; names the step, the images and what of the loss or the gradient.
    """
    return run(TrainConfig.from_plain(arguments))


train.__signature__ = inspect.signature(TrainConfig)  # pyright: ignore[reportFunctionMemberAccess]


def run(config: TrainConfig, console: Console | None = None, compared: bool = False) -> Path:
    """`train`, with a checked configuration; progress goes to `console`. One of runs that are `compared`, and one that
    is very short, does not tell how long it will take, and writes no report of its own."""
    console = (console or Console(markup=False)) if is_first_process() else Console(quiet=True)
    say = partial(console.print, highlight=False, soft_wrap=True)
    out = config.out or _new_folder(config)
    config, state = resumed(config, out)
    if config.data != DIGITS:
        config = replace(config, data=str(Path(config.data).resolve()))
    _refuse_fp16_on_cpu(config)
    check_packages(config.loggers)
    sources, notes = open_training_sources(config.data, config.digits, config.seed, console, decode=is_first_process())
    for note in notes:
        say(f"data: {note}")
    classes = sources["train"].classes
    reasons: tuple[str, ...] = ()
    if state is None:
        config, reasons = _chosen(config, sources["train"], say)
    else:
        check_classes(out, classes)
        say(f"resuming after {steps_done(state)} steps, with the run's own configuration ({out / CONFIGURATION})")
        config = settled(config)
    torch.manual_seed(config.seed)
    detector, made_of = _detector(config, classes)
    if state is None:
        say(f"weights: {begin(config, detector, made_of, classes)}")
    if config.init or config.hugging_face:
        init = config.init if config.init is None or on_hub(config.init) else config.init.resolve()
        config = replace(config, init=init, detector=asdict(made_of))
    say(_introduction(config, out, sources, made_of))
    warned = _cautions(config, sources, made_of)
    for caution in warned:
        say(f"caution: {caution}")

    def describe(epoch: int, metrics: dict[str, Any]) -> CheckpointInfo:
        size, plain = chosen(config.image_size), config.to_json()
        images = {split: len(source) for split, source in sources.items() if split in ("train", "val")}
        return CheckpointInfo(made_of, classes, size, detector.mean, detector.std, epoch, metrics, plain, images)

    save_configuration(config, out)
    recorder = Recorder(out, describe, steps_done(state))
    task = DistillationTask(detector, 1, config.distillation, config.loss, config.matching, config.groups)
    keep = partial(_keep, out, task, describe, config.precision)
    watch = StepWatch(task, config.non_finite, keep, partial(_files, sources["train"]), say)
    module = TrainingModule(task, config.optimizer, sources["val"], config.seed, watch)
    with _quiet():
        trainer = _trainer(config, [recorder, Stopping(recorder, say), ProgressLine(console, out, recorder)])
        _check_precision(config, trainer)
        loaders = _loaders(config, sources, detector, trainer)
        alone = not compared and is_long(config, loaders[0])
        if state is None:
            timed = alone and not several_processes(config.trainer)  # of several, none can time its steps alone
            expected = timed and _forecast(task, config, sources["val"], *loaders, trainer.strategy.root_device)
            said = {"data": list(notes), "chosen": list(reasons), "cautions": warned}
            save_beginning(out, **said, forecast=asdict(expected) if expected else None)
            if expected:
                say(f"time: {expected}")
        trainer.loggers = open_loggers(config.loggers, _logged(out, steps_done(state), describe(0, {})), say)
        _fit(trainer, module, loaders, state)
    best = f"best teacher AP {recorder.best:.3f} (0-1)" if recorder.best >= 0 else "no AP: no object to validate on"
    if watch.skipped:
        say(f"skipped steps: {watch.skipped}, whose loss or gradient was not finite")
    say(f"run: {out}   {best}   evaluate it: oddetr evaluate {out}")
    if alone and is_first_process():
        _write_report(out, say)
    return out


def _forecast(task: DistillationTask, config: TrainConfig, *parts: Any) -> Forecast | None:
    """None where a step that is timed is not finite: the run itself says so, and may skip it."""
    try:
        return forecast(task, config, *parts)
    except FloatingPointError:
        return None


def _keep(
    out: Path, task: DistillationTask, describe: Callable[..., CheckpointInfo], precision: Precision, accident: Accident
) -> Path:
    return save_replay(out, task, describe(accident.place.epoch, {}), precision, accident)


def _files(source: Source, ids: Sequence[int]) -> list[str]:
    """Of images; none where they are generated."""
    if not isinstance(source, DetectionData):
        return []
    places = {image: place for place, image in enumerate(source.truth.image_ids.tolist())}
    return [source.files[places[image]] for image in ids]


def _write_report(out: Path, say: Callable[[str], None]) -> None:
    """The run is done: a report that cannot be written is no reason to call it failed."""
    from oddetr.reporting.report import report

    try:
        say(f"report: {report(out).file}")
    except Exception as error:
        say(f"The report could not be written ({type(error).__name__}: {error}). Try: oddetr report {out}")


def _detector(config: TrainConfig, classes: ClassTable) -> tuple[Detector, DetectorConfig | HuggingFaceConfig]:
    made_of = config.detector_config()
    if isinstance(made_of, HuggingFaceConfig):
        made_of = made_of.for_classes(classes.names)
    return build_detector(made_of, len(classes)), made_of


def _fit(
    trainer: Trainer, module: TrainingModule, loaders: tuple[AccumulatedLoader, AccumulatedLoader], state: Path | None
) -> None:
    """Trains; Ctrl-C, which Lightning makes an exit of the process that ignores further ones, stays Ctrl-C."""
    try:
        trainer.fit(module, *loaders, ckpt_path=state, weights_only=True)
    except SystemExit as stopped:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from stopped


def _cautions(
    config: TrainConfig, sources: dict[str, Source], made_of: DetectorConfig | HuggingFaceConfig
) -> list[str]:
    if config.data == DIGITS:
        return []
    queries = made_of.num_queries if isinstance(made_of, DetectorConfig) else None
    return cautions(sources["train"].annotations(), sources["val"].annotations(), chosen(config.image_size), queries)


def _chosen(config: TrainConfig, train: Source, say: Callable[[str], None]) -> tuple[TrainConfig, tuple[str, ...]]:
    """`config` with what it leaves open, said aloud."""
    facts = Facts.of_digits(len(train)) if config.data == DIGITS else Facts.of(train.annotations())
    choice = choose(config, facts, Machine.this(config.trainer))
    for reason in choice.reasons:
        say(f"chosen: {reason}")
    return choice.config, choice.reasons


def _new_folder(config: TrainConfig) -> Path:
    if several_processes(config.trainer):
        raise ValueError("A run of several processes needs --out, so that all write to the same folder.")
    name = "-".join([Path(config.data).resolve().name, *([config.model] if config.model else [])])
    return next(path for n in range(1, 10**6) if not (path := Path("runs") / f"{name}-{n}").exists())


_NO_GPU = "fp16 needs a GPU; there is none here. On a CPU use fp32, or bf16 to save memory."


def _refuse_fp16_on_cpu(config: TrainConfig) -> None:
    accelerator = str(config.trainer.get("accelerator", "auto"))
    if config.precision == "fp16" and (accelerator == "cpu" or not torch.cuda.is_available()):
        raise ValueError(_NO_GPU)


def _check_precision(config: TrainConfig, trainer: Trainer) -> None:
    """Lightning takes bf16 for fp16 on a CPU, however it came to be on a CPU."""
    if config.precision == "fp16" and trainer.precision != PRECISIONS["fp16"]:
        raise ValueError(_NO_GPU)


def _introduction(
    config: TrainConfig, out: Path, sources: dict[str, Source], made_of: DetectorConfig | HuggingFaceConfig
) -> str:
    classes = sources["train"].classes
    shown = [f"{name} ({i})" for name, i in zip(classes.names, classes.ids, strict=True)]
    table = ", ".join(shown[:12]) + (" ..." if len(shown) > 12 else "")
    sizes = ", ".join(f"{name} {len(source)}" for name, source in sources.items())
    return (
        f"classes: {len(classes)}: {table}\n"
        f"images: {sizes}   model: {config.model or config.init}   image size: {config.image_size}   run: {out}"
        + (_BEHIND if _is_behind(made_of) and config.distillation.enabled else "")
    )


def _is_behind(made_of: DetectorConfig | HuggingFaceConfig) -> bool:
    """Whether OD-DETR ended below the baseline where such detectors were compared: two-stage Deformable-DETR, DINO."""
    return made_of.class_agnostic or (isinstance(made_of, DetectorConfig) and made_of.variant == "dino")


_BEHIND = (
    "\nnote: on two-stage Deformable-DETR and DINO, OD-DETR ended below its baseline in our comparisons, by doubles "
    "(docs/results.md); --distillation.enabled false trains the baseline"
)


def _trainer(config: TrainConfig, callbacks: list[Callback]) -> Trainer:
    flags: dict[str, Any] = {
        "max_epochs": config.epochs,
        "devices": 1,
        "precision": PRECISIONS[config.precision],
        "accumulate_grad_batches": config.accumulate,
        "check_val_every_n_epoch": config.validate_every,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "logger": False,
        "strategy": DDPStrategy(broadcast_buffers=False) if several_processes(config.trainer) else "auto",
        "use_distributed_sampler": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    flags |= config.trainer
    return Trainer(**flags | {"callbacks": callbacks + flags.get("callbacks", [])})


def _logged(out: Path, steps: int, info: CheckpointInfo) -> LoggedRun:
    return LoggedRun(out, steps, parameters(info.configuration, info.classes.names), info.versions)


def _loaders(
    config: TrainConfig, sources: dict[str, Source], detector: Detector, trainer: Trainer
) -> tuple[AccumulatedLoader, AccumulatedLoader]:
    for name, source in (("training", sources["train"]), ("validation", sources["val"])):
        if len(source) < trainer.world_size:
            raise ValueError(f"{len(source)} {name} images are too few for {trainer.world_size} processes: one each.")
    mean, std, size = detector.mean, detector.std, chosen(config.image_size)
    rank, world = trainer.global_rank, trainer.world_size
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(4, max(0, cores // max(1, trainer.num_devices) - 1)) if config.workers is None else config.workers
    augmented = TrainTransform(size, mean, std, sources["train"].flippable, config.augment)
    training = make_loader(
        TransformedDataset(sources["train"], augmented, config.seed),
        EpochSampler(len(sources["train"]), config.seed, rank=rank, world_size=world),
        chosen(config.batch_size),
        workers,
        config.accumulate,
    )
    validation = make_loader(
        TransformedDataset(sources["val"], EvalTransform(size, mean, std)),
        EpochSampler(len(sources["val"]), shuffle=False, rank=rank, world_size=world),
        chosen(config.batch_size),
        workers,
    )
    return training, validation


@contextmanager
def _quiet() -> Generator[None]:
    """Keeps Lightning's advice on things that are chosen here to itself; its warnings and errors are heard."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _ADVICE:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
