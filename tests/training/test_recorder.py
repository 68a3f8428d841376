import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Trainer

from oddetr.structures import Batch
from oddetr.training.module import TrainingModule
from oddetr.training.records.log import read_events
from oddetr.training.records.recorder import Recorder


def test_a_resumed_recorder_knows_the_best_ap_and_the_time_passed(tmp_path: Path) -> None:
    """The last epoch is done again: what it said is forgotten. One epoch was not validated, one has no AP."""
    rest: dict[str, Any] = {"per_class": {}, "normalised_instability": None}
    scores = [(0.1, 0.6), (0.3, 0.2), None, (None, None), (0.9, 0.9)]
    events = [
        {"kind": "epoch", "step": 10 * epoch, "epoch": epoch, "seconds": 9.0 * epoch, "training_seconds": 5.0 * epoch}
        | ({"teacher": rest | {"AP": pair[0]}, "student": rest | {"AP": pair[1]}} if pair else {})
        for epoch, pair in enumerate(scores, start=1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    recorder = Recorder(tmp_path, lambda epoch, scores: None, steps_done=40)
    assert recorder.best == 0.3
    assert recorder.trained == 20.0
    assert math.isnan(recorder.loss)
    assert Recorder(tmp_path, lambda epoch, scores: None, steps_done=0).best == -1.0


def test_an_epoch_records_the_mean_agreement_of_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """25 steps, more than are logged at a time; then an epoch whose steps tell nothing of it."""
    recorder = Recorder(tmp_path, lambda epoch, scores: None, steps_done=0)
    monkeypatch.setattr(recorder, "_save", lambda *_: None)
    watch = Mock(left_out=False, policy="stop")
    module = Mock(spec=TrainingModule, scores={}, scored_epoch=0, learning_rate=0.1, watch=watch)
    batch = Mock(spec=Batch, image_ids=(1, 2))
    trainer = Mock(
        spec=Trainer,
        global_step=0,
        world_size=1,
        is_global_zero=True,
        loggers=[],
        lightning_module=module,
        accumulate_grad_batches=1,
        is_last_batch=False,
        max_epochs=2,
        strategy=Mock(reduce_boolean_decision=lambda wanted, all: wanted),
    )
    for epoch in range(2):
        trainer.current_epoch = epoch
        for step in range(25):
            trainer.global_step += 1
            outputs = {"loss": torch.tensor(2.0)}
            if epoch == 0:
                outputs |= {"matching_carried": torch.tensor(float(step)), "matching_disagreement": torch.tensor(0.5)}
            recorder.on_train_batch_end(trainer, module, outputs, batch, step)
        recorder.on_train_epoch_end(trainer, module)
    events = read_events(tmp_path)
    assert [event["matching_carried"] for event in events if "matching_carried" in event] == [9.5, 22.0, 12.0]
    first, second = (event for event in events if event["kind"] == "epoch")
    assert first["matching_disagreement"] == 0.5
    assert not {"matching_carried", "loss"} & second.keys()
