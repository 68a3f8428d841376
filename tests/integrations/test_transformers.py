"""transformers' Trainer with OD-DETR: the script in examples/, and what its checkpoints hold."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

transformers = pytest.importorskip("transformers", minversion="5.23")
pytest.importorskip("accelerate")

from oddetr.distillation import DistillationConfig  # noqa: E402
from oddetr.integrations.transformers import DistillationTrainer  # noqa: E402
from tests.models.test_huggingface import MODELS  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune_transformers.py"


class Noise(torch.utils.data.Dataset):
    """Eight pictures of noise with one to three objects each."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        boxes = torch.rand(1 + index % 3, 4, generator=generator) * 0.3 + 0.3
        return {
            "pixel_values": torch.rand(3, 64, 64, generator=generator),
            "labels": {"class_labels": torch.full((len(boxes),), index % 3), "boxes": boxes},
        }


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": [sample["labels"] for sample in samples],
    }


def trainer_of(name: str, out: Path, **options: Any) -> DistillationTrainer:
    torch.manual_seed(0)
    defaults = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "report_to": "none"}
    defaults |= {"save_strategy": "epoch", "eval_strategy": "epoch", "remove_unused_columns": False, "use_cpu": True}
    arguments = transformers.TrainingArguments(output_dir=str(out), disable_tqdm=True, **defaults | options)
    return DistillationTrainer(
        model=MODELS[name](),
        args=arguments,
        train_dataset=Noise(),
        eval_dataset=Noise(),
        data_collator=collate,
        distillation=DistillationConfig(horizon=8.0),
    )


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def test_training_when_resumed_then_continues_with_the_same_student_and_teacher(tmp_path: Path) -> None:
    name = "RT-DETR v2"

    class StopAfterOneEpoch(transformers.TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            control.should_training_stop = True

    stopped = trainer_of(name, tmp_path)
    stopped.add_callback(StopAfterOneEpoch())
    stopped.train()
    assert (stopped.task.teacher.steps, stopped.task.steps) == (2, 4)
    resumed = trainer_of(name, tmp_path)
    begun: list[tuple[int, dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []

    class Look(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            begun.append((resumed.task.teacher.steps, weights(resumed.model), weights(resumed.teacher)))

    resumed.add_callback(Look())
    resumed.train(resume_from_checkpoint=True)
    ((steps, student, teacher),) = begun
    assert (steps, resumed.task.teacher.steps) == (2, 4)
    for found, expected in ((student, weights(stopped.model)), (teacher, weights(stopped.teacher))):
        assert all(value.equal(expected[parameter]) for parameter, value in found.items())
    assert any(not value.equal(teacher[parameter]) for parameter, value in student.items())
    assert len([event for event in resumed.state.log_history if "eval_loss" in event]) == 2

    whole = trainer_of(name, tmp_path / "whole")
    whole.train()
    images = torch.rand(2, 3, 64, 64)
    for part in (lambda trainer: trainer.model, lambda trainer: trainer.teacher):
        with torch.no_grad():
            again, half, expected = (part(trainer).eval()(images).logits for trainer in (resumed, stopped, whole))
        torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-4)
        assert not half.allclose(expected, atol=1e-3)


def test_training_when_batches_are_accumulated_then_is_as_with_the_whole_batch(tmp_path: Path) -> None:
    """Their images have different numbers of objects."""
    options = {"optim": "sgd", "max_steps": 1, "max_grad_norm": 0.0, "learning_rate": 1e-2, "save_strategy": "no"}
    options |= {"eval_strategy": "no", "logging_steps": 1}
    whole, parts = (
        trainer_of(
            "deformable refine", tmp_path, **options, per_device_train_batch_size=size, gradient_accumulation_steps=n
        )
        for size, n in ((4, 1), (2, 2))
    )
    begun = weights(whole.model)
    losses = [trainer.train().training_loss for trainer in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    found, expected = weights(parts.model), weights(whole.model)
    for name, value in expected.items():
        torch.testing.assert_close(found[name] - begun[name], value - begun[name], rtol=1e-3, atol=1e-7)
    assert any(not value.equal(begun[name]) for name, value in expected.items())


def test_trainer_when_a_process_sees_several_gpus_then_says_how_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="torchrun"):
        trainer_of("RT-DETR v2", tmp_path)


@pytest.fixture(scope="module")
def after_one_epoch(tmp_path_factory: pytest.TempPathFactory) -> tuple[DistillationTrainer, Path]:
    """A trainer and its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    trainer = trainer_of("RT-DETR v2", folder, num_train_epochs=1)
    trainer.train()
    return trainer, folder / "checkpoint-2"


def test_checkpoint_when_saved_then_from_pretrained_reads_student_and_the_teacher_that_is_evaluated(
    after_one_epoch: tuple[DistillationTrainer, Path],
) -> None:
    trainer, checkpoint = after_one_epoch
    student, teacher = (load_file(folder / "model.safetensors") for folder in (checkpoint, checkpoint / "teacher"))
    assert any(not value.equal(teacher[name]) for name, value in student.items())
    assert json.loads((checkpoint / "teacher" / "oddetr.json").read_text()) == {"steps": 2}
    again = type(trainer.teacher).from_pretrained(checkpoint / "teacher").eval()
    batch = collate([Noise()[index] for index in range(8)])
    evaluated = trainer.evaluate()["eval_loss"]
    teacher, student = (model.eval()(**batch).loss.item() for model in (again, trainer.model))
    assert evaluated == pytest.approx(teacher, rel=1e-4)
    assert student != pytest.approx(evaluated, rel=1e-4)
    with torch.no_grad():
        assert trainer.model(batch["pixel_values"], output_hidden_states=True).encoder_hidden_states


def test_checkpoint_when_without_a_teacher_then_resuming_says_so(
    after_one_epoch: tuple[DistillationTrainer, Path], tmp_path: Path
) -> None:
    copied = shutil.copytree(after_one_epoch[1], tmp_path / "checkpoint-2", ignore=shutil.ignore_patterns("teacher"))
    with pytest.raises(ValueError, match="has no teacher"):
        trainer_of("RT-DETR v2", tmp_path).train(resume_from_checkpoint=str(copied))


@pytest.mark.filterwarnings("ignore")  # those of transformers are no fault of the script
def test_example_when_run_then_trains_resumes_and_scores(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    MODELS["RT-DETR v2"]().save_pretrained(tmp_path / "model")
    words = [str(EXAMPLE), "--model", str(tmp_path / "model"), "--data", str(scenes), "--out", str(tmp_path / "out")]
    words += ["--train", "train", "--val", "val", "--image-size", "64", "--batch-size", "4"]
    for more in (["--epochs", "1"], ["--epochs", "2", "--resume"]):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "AP of the teacher: 0." in capsys.readouterr().out
    assert (tmp_path / "out" / "teacher" / "config.json").is_file()
