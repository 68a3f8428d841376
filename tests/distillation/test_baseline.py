import dataclasses

import pytest
import torch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.config import AuxiliaryConfig, MatchingConfig, PredictionConfig
from oddetr.losses.detection import LossConfig, assigned_loss, detection_loss
from oddetr.losses.matching import MatchingWeights, hungarian, matching_cost
from oddetr.structures import Batch, GroundTruth
from tests.models.helpers import VARIANTS, small_batch, small_detector


def gradients(task: DistillationTask, batches: list[Batch]) -> dict[str, torch.Tensor]:
    task.zero_grad()
    for batch in batches:
        task(batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in task.learned() if p.grad is not None}


def one_image(batch: Batch, index: int, objects: int) -> Batch:
    count = batch.truth.counts[index]
    chosen = slice(index, index + 1)
    return dataclasses.replace(
        batch,
        images=batch.images[chosen],
        padding_mask=batch.padding_mask[chosen],
        truth=GroundTruth.stack([batch.truth.labels[index, :count]], [batch.truth.boxes[index, :count]]),
        image_ids=batch.image_ids[chosen],
        original_sizes=batch.original_sizes[chosen],
        step_objects=objects,
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("off", "classification"), [("switch", "focal"), ("weights", "quality_focal"), ("faded", "quality_focal")]
)
def test_step_without_distillation_is_the_baseline_to_the_bit(variant: str, classification: str, off: str) -> None:
    """The baseline written out by hand; dropout is on, so that not a single number more may be drawn."""
    loss = LossConfig(classification)
    fading = {"weight": 0.0} if off == "weights" else {"fade_until": 0.5}
    config = DistillationConfig(
        enabled=off != "switch",
        matching=MatchingConfig(**fading),
        prediction=PredictionConfig(**fading),
        auxiliary=AuxiliaryConfig(**fading),
    )
    task = DistillationTask(small_detector(variant, dropout=0.1), 10, config, loss).train()
    task.teacher.steps = 5
    plain = small_detector(variant, dropout=0.1).train()
    batch = small_batch((2, 1))
    ours, theirs = (torch.optim.AdamW(model.parameters(), lr=1e-3) for model in (task.student, plain))
    for step in range(3):
        torch.manual_seed(step)
        found = task(batch)["loss"]
        torch.manual_seed(step)
        memory = plain.encode(batch.images, batch.padding_mask)
        initial = plain.initial_queries(memory)
        groups = {"own": initial.queries}
        if plain.denoising:
            denoising = plain.denoising(batch.truth)
            groups["denoising"] = denoising.queries
        decoded = plain.decode(memory, groups)
        supervised = [(decoded["own"], batch.truth)]
        if initial.proposals:
            labels = batch.truth.labels.clamp(max=0) if initial.class_agnostic else batch.truth.labels
            supervised.append((initial.proposals, dataclasses.replace(batch.truth, labels=labels)))
        expected = torch.zeros(())
        for predictions, truth in supervised:
            (assignment,) = hungarian(matching_cost(predictions, truth, MatchingWeights()), counts=truth.counts)
            parts = detection_loss(predictions, truth, (assignment,), torch.tensor(3.0), classification)
            expected = expected + parts.weighted(loss)
        if plain.denoising:
            parts = assigned_loss(decoded["denoising"], batch.truth, denoising, torch.tensor(3.0), classification)
            expected = expected + parts.weighted(loss)
        assert found.equal(expected)
        for value, optimizer in ((found, ours), (expected, theirs)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        task.update_teacher()
    assert all(a.equal(b) for a, b in zip(task.student.parameters(), plain.parameters(), strict=True))
