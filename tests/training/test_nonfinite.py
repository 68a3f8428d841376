"""Steps that are not finite, without an engine; with one: test_replay.py."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import distributed, multiprocessing, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.utils.data import DataLoader

from oddetr.data.digits import DigitScenes
from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.group_detr import GroupsConfig
from oddetr.distillation.teacher import NonFiniteStudentError
from oddetr.losses.matching import NonFiniteCostError
from oddetr.structures import Batch
from oddetr.training.config import OptimizerConfig
from oddetr.training.module import TrainingModule
from oddetr.training.safety.nonfinite import MOST_IN_A_ROW, Place, StepWatch
from tests.distillation.test_task import apart
from tests.models.helpers import small_batch, small_detector
from tests.training.killing import FORKS

NAN, INF = float("nan"), float("inf")


class Learner(nn.Module):
    """A task with its watch, as the engine puts them together: the loss of a batch."""

    def __init__(self, task: DistillationTask, watch: StepWatch) -> None:
        super().__init__()
        self.task, self.watch = task, watch

    def forward(self, batch: Batch) -> torch.Tensor:
        try:
            return self.watch.loss(self.task(batch))
        except NonFiniteCostError as error:
            return self.watch.loss(error.found, error)


class Training:
    """A run of small steps."""

    def __init__(self, clip: float = 0.1, statistics: bool = True, **watched: object) -> None:
        self.task = apart("refine")
        for detector in (self.task.student, self.task.teacher.detector) if statistics else ():
            detector.register_buffer("statistics", torch.ones(2))
            detector.register_buffer("count", torch.tensor(0))
        self.watch, self.clip, self.done = StepWatch(self.task, **watched), clip, 0
        self.optimizer = AdamW([each for _, each in self.task.learned()], lr=1e-3, fused=True)
        self.learner: nn.Module = Learner(self.task, self.watch)
        self.watch.start()

    def step(self, *batches: Batch, scaler: object = None) -> bool:
        self.optimizer.zero_grad()
        for index, batch in enumerate(batches or [small_batch((2, 1), seed=self.done)]):
            self.watch.start_batch(batch, Place(self.done, 2, index, 0, seed=5))
            self.learner(batch).backward()
            if len(batches) > 1:
                self.watch.end_batch()
        self.done += 1
        self.watch.clip_gradient(self.optimizer, self.clip, scaled=bool(scaler))
        if not scaler:
            self.optimizer.step()
        moved = self.watch.end_step(scaler)
        self.task.update_teacher(finite=True) if moved else self.task.skip_step()
        return moved

    def state(self) -> dict[str, torch.Tensor]:
        """All that a step may move, except the teacher's count."""
        moments = {
            f"{index} {name}": value.clone()
            for index, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        return moments | {name: v.clone() for name, v in (*self.task.named_parameters(), *self.task.named_buffers())}

    def spoil_batches(self, which: set[int]) -> None:
        """Make the encoder's output NaN in the forward passes of these numbers."""
        calls = iter(range(100))

        def spoil(module: nn.Module, inputs: object, output: object) -> None:
            output.tokens.data.mul_(NAN if next(calls) in which else 1.0)

        self.task.student.encoder.register_forward_hook(spoil)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(value.equal(second[name]) for name, value in first.items())


def linear(training: Training) -> torch.Tensor:
    return training.task.student.encoder.layers[0].linear1.weight


def spoil_prediction(training: Training, patch: pytest.MonkeyPatch) -> None:
    training.task.student.decoder.heads[1].classes.register_forward_hook(lambda module, inputs, output: output * NAN)


def spoil_giou(training: Training, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("oddetr.losses.detection.generalized_iou", lambda first, second: (first - second).sum(dim=-1) * INF)


def spoil_sum(training: Training, patch: pytest.MonkeyPatch) -> None:
    """Each part is finite, and so is the gradient."""
    forward = training.task.forward
    patch.setattr(training.task, "forward", lambda batch: (parts := forward(batch)) | {"loss": parts["loss"] + INF})


def spoil_gradient(training: Training, patch: pytest.MonkeyPatch) -> None:
    linear(training).register_hook(lambda gradient: gradient * NAN)


def spoil_norm(training: Training, patch: pytest.MonkeyPatch) -> None:
    linear(training).register_hook(lambda gradient: gradient * 0 + 1e30)


def spoil_statistics(training: Training, patch: pytest.MonkeyPatch) -> None:
    def spoil(*_: object) -> None:
        training.task.student.statistics[1] = INF
        training.task.student.count += 1

    training.task.student.encoder.register_forward_hook(spoil)


SPOILED: dict[Callable, str] = {
    spoil_prediction: r"the detector predicts NaN or infinity for 0, 1; the loss is not finite: loss_classes \(nan\)",
    spoil_giou: r"images with the ids 0, 1: the loss is not finite: loss_giou \(nan\), loss_auxiliary_giou \(nan\)",
    spoil_sum: r"the loss is not finite: loss \(inf\)\.",
    spoil_gradient: r"its gradient is not: encoder.layers.0.linear1.weight\.",
    spoil_norm: r"its gradient is not: only its norm; each value is finite\.",
    spoil_statistics: r"the statistics of batch norms are not finite: statistics\.",
}


@pytest.mark.parametrize(("spoil", "clip"), [*((each, 0.1) for each in SPOILED), (spoil_norm, 0.0)])
def test_nothing_moves_in_a_bad_step_and_the_error_says_where_and_what(
    spoil: Callable, clip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a good step, so that the optimizer has moments to lose; first skipped, then stopped."""
    messages: list[str] = []
    training = Training(clip=clip, policy="skip", say=messages.append)
    assert training.step()
    before = training.state()
    spoil(training, monkeypatch)
    assert not training.step()
    assert not training.step()
    assert training.watch.step_skipped
    assert training.watch.state() == {"skipped": 2, "in_a_row": 2}
    assert training.task.teacher.steps == 3
    assert len(messages) == 1
    assert messages[0].startswith("skipped: Step 1 (")
    training.watch.policy = "stop"
    with pytest.raises(FloatingPointError, match=SPOILED[spoil]) as caught:
        training.step()
    assert same(training.state(), before)
    assert "Step 3 (epoch 3, batch 0), images with the ids 0, 1: " in str(caught.value)
    assert "--non-finite skip" in str(caught.value)


def test_a_watched_run_equals_a_plain_loop_to_the_bit() -> None:
    """Two batches of a step, so that a gradient is watched within it, too; a student without statistics."""
    watched, plain = Training(clip=0.1, statistics=False), apart("refine")
    optimizer = AdamW([each for _, each in plain.learned()], lr=1e-3, fused=True)
    for seed in range(3):
        batches = [small_batch((2, 1), seed=seed), small_batch((0, 3), seed=seed + 10)]
        watched.step(*batches)
        optimizer.zero_grad()
        for batch in batches:
            plain(batch)["loss"].backward()
        nn.utils.clip_grad_norm_([each for _, each in plain.learned()], 0.1)
        optimizer.step()
        plain.update_teacher()
    for name, value in plain.named_parameters():
        assert value.equal(watched.task.get_parameter(name)), name


def test_the_bad_one_of_accumulated_batches_is_named() -> None:
    batches = [small_batch((2, 1), seed=seed) for seed in range(3)]
    training = Training()
    training.spoil_batches({0})
    with pytest.raises(FloatingPointError, match=r"Step 0 \(epoch 3, batch 0\), .*predicts NaN"):
        training.step(*batches)
    training, factors = Training(), iter((1.0, NAN, 1.0))
    linear(training).register_hook(lambda gradient: gradient * next(factors))
    with pytest.raises(FloatingPointError, match=r"batch 1\), .*gradient is not: encoder.layers.0.linear1.weight"):
        training.step(*batches)


def test_skipped_steps_keep_one_replay_file_and_name_files_until_too_many_in_a_row_stop_the_run() -> None:
    keep = Mock(return_value=Path("run/replay.pt"))
    messages: list[str] = []
    training = Training(
        policy="skip", keep=keep, files=lambda ids: [f"{each}.png" for each in ids], say=messages.append
    )
    training.spoil_batches({1, 2, 4, 6})
    assert [training.step() for _ in range(6)] == [True, False, False, True, False, True]
    assert training.watch.state() == {"skipped": 3, "in_a_row": 0}
    keep.assert_called_once()
    (kept,) = keep.call_args.args
    assert kept.place.step == 1
    assert kept.batch.images.equal(small_batch((2, 1), seed=1).images)
    assert "ids 0, 1 (0.png, 1.png): " in messages[0]
    assert "oddetr replay run/replay.pt" in messages[0]
    keep.side_effect = OSError("No space left on device")
    training.watch.load({"skipped": 8, "in_a_row": MOST_IN_A_ROW - 1})
    with pytest.raises(FloatingPointError, match=f"the {MOST_IN_A_ROW}th skipped step in a row, 9 in all") as caught:
        training.step()
    assert "no replay file could be written: No space left" in str(caught.value)


@pytest.mark.parametrize("value", [NAN, 1e30])
def test_the_teacher_averages_no_student_that_the_optimizer_made_non_finite(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradient were finite, so no step can be skipped."""
    training = Training(policy="skip")
    teacher = deepcopy(training.task.teacher)
    bias = training.task.student.decoder.heads[0].classes.bias
    monkeypatch.setattr(training.optimizer, "step", lambda: bias.data.fill_(value))
    with pytest.raises(NonFiniteStudentError, match=r"(decoder.heads.0.classes.bias|so large).*teacher stays"):
        training.step()
    assert same(dict(teacher.named_parameters()), dict(training.task.teacher.named_parameters()))
    assert training.task.teacher.steps == 0


class Scales(Callback):
    """The scale of the gradients, the steps that the optimizer made, and the teacher's, after each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int, int]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        made = max((int(state["step"]) for state in trainer.optimizers[0].state.values()), default=0)
        self.seen.append((trainer.precision_plugin.scaler.get_scale(), made, pl_module.task.teacher.steps))


@pytest.mark.filterwarnings("ignore:.*val_dataloader.*", "ignore:.*in eval mode.*", "ignore:.*treespec.*")
@pytest.mark.filterwarnings("ignore:.*many workers.*", "ignore:.*lr_scheduler.step.*", "ignore:.*log_every_n.*")
def test_fp16_continues_while_the_scaler_searches_and_stops_at_a_nan_image() -> None:
    """On the CPU, where `oddetr train` refuses fp16, but torch does not: slowly the same as on a GPU."""
    batches = [small_batch((2, 1), seed=seed) for seed in range(13)]
    batches[12].images[1, 0, 0, 0] = NAN
    task, scales = DistillationTask(small_detector("refine"), 10), Scales()
    optimizer = OptimizerConfig(learning_rate=1e-3, backbone_factor=1.0)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", GradScaler("cpu", 2.0**20))],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[scales],
    )  # fmt: skip
    module = TrainingModule(StepWatch(task), optimizer, DigitScenes("val"), seed=0)
    with pytest.raises(FloatingPointError, match=r"Step 12 .*the ids 1: the detector predicts NaN"):
        trainer.fit(module, DataLoader(batches, batch_size=None))
    assert [steps for _, _, steps in scales.seen] == [*range(1, 13)]
    assert scales.seen[0][:2] == (2.0**19, 0)
    assert 1 <= scales.seen[-1][0] < 2.0**19
    assert 0 < scales.seen[-1][1] < 12
    assert all(value.isfinite().all() for value in task.parameters())


def scaled_by(scale: float) -> Mock:
    return Mock(spec=torch.amp.GradScaler, get_scale=lambda: scale)


def test_fp16_leaves_gradient_overflow_to_the_scaler_down_to_a_scale_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training()
    spoil_gradient(training, monkeypatch)
    before = training.state()
    assert not training.step(scaler=scaled_by(1024.0))
    assert same(training.state(), before)
    assert (training.watch.skipped, training.watch.step_skipped) == (0, False)
    with pytest.raises(FloatingPointError, match="its gradient is not"):
        training.step(scaler=scaled_by(0.5))
    training = Training()
    spoil_giou(training, monkeypatch)
    with pytest.raises(FloatingPointError, match="the loss is not finite: loss_giou"):
        training.step(scaler=scaled_by(1024.0))


@pytest.mark.parametrize("memory", ["student", "teacher"])
def test_nan_of_the_teacher_alone_makes_the_loss_nan_and_names_the_images(memory: str) -> None:
    groups = GroupsConfig(one_to_one=1, one_to_many=4)
    task = DistillationTask(small_detector("refine"), 10, DistillationConfig(memory=memory), groups=groups)
    task.teacher.detector.decoder.heads[0].classes.bias.data.fill_(NAN)
    with pytest.raises(NonFiniteCostError) as caught:
        task(small_batch((2, 1)))
    assert caught.value.images == (0, 1)
    assert caught.value.found["loss"].isnan()
    caught.value.found["loss"].backward()
    assert all(each.grad is not None and each.grad.isnan().any() for _, each in task.learned())


POLICIES = ("stop", "skip")


def learn_together(rank: int, folder: str) -> None:
    """Two processes; in the second step of the second, an image is NaN."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for policy in POLICIES:
        training = Training(policy=policy)
        training.learner = DistributedDataParallel(training.learner, broadcast_buffers=False)
        end = "finished"
        for step in range(3):
            batch = small_batch((2, 1), seed=2 * step + rank)
            batch.images[0] *= NAN if (step, rank) == (1, 1) else 1.0
            try:
                training.step(batch)
            except FloatingPointError as error:
                end = str(error)
                break
        found = {"end": end, "skipped": training.watch.skipped, "state": training.state()}
        torch.save(found, f"{folder}/{policy}{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_end_alike_when_one_meets_nan(tmp_path: Path) -> None:
    multiprocessing.start_processes(learn_together, (str(tmp_path),), nprocs=2, start_method=FORKS.get_start_method())
    for policy in POLICIES:
        first, second = (torch.load(tmp_path / f"{policy}{rank}.pt") for rank in (0, 1))
        assert first["end"] == second["end"]
        assert same(first["state"], second["state"])
        if policy == "skip":
            assert first["end"] == "finished"
            assert first["skipped"] == second["skipped"] == 1
        else:
            assert "images with the ids 0: the detector predicts NaN" in first["end"]
