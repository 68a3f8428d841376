"""Group DETR's and H-DETR's further groups of queries; their losses by hand: test_terms.py."""

import dataclasses

import pytest
import torch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.group_detr import GroupsConfig
from oddetr.losses.matching import NonFiniteCostError
from oddetr.structures import Memory, Predictions, Queries
from tests.models.helpers import VARIANTS, small_batch, small_detector

OFF = DistillationConfig(enabled=False)


def task_with(variant: str = "refine", **groups: int) -> DistillationTask:
    return DistillationTask(small_detector(variant), 10, OFF, groups=GroupsConfig(**groups))


@pytest.mark.parametrize("variant", VARIANTS)
def test_extra_groups_do_not_change_the_student(
    variant: str,
) -> None:
    plain, task = task_with(variant), task_with(variant, one_to_one=2, one_to_many=12)
    ours, theirs = task.student.state_dict(), plain.student.state_dict()
    assert ours.keys() == theirs.keys() == task.teacher.detector.state_dict().keys()
    assert all(value.equal(theirs[name]) for name, value in ours.items())
    batch = small_batch((2, 1))
    alone, beside = (each.student(batch.images, batch.padding_mask) for each in (plain, task))
    assert beside.logits.equal(alone.logits)
    own = {each.data_ptr() for each in task.student.query_source.parameters()}
    extra = {each.data_ptr() for _, each in task.learned()} - {each.data_ptr() for each in task.student.parameters()}
    assert len(extra) == 3 * len(own)


@pytest.mark.parametrize(
    ("variant", "counts"), [*((variant, (9, 1)) for variant in VARIANTS), ("refine", (0, 0)), ("dino", (0, 0))], ids=str
)
def test_every_parameter_of_extra_groups_has_a_finite_gradient(variant: str, counts: tuple[int, ...]) -> None:
    task = task_with(variant, one_to_one=1, one_to_many=4)
    task(small_batch(counts))["loss"].backward()
    for name, parameter in task.learned():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_two_stage_group_has_a_proposal_head_of_its_own() -> None:
    """The groups choose other tokens, and their losses on proposals do not teach the detector's own head."""
    task, batch = task_with("two_stage", one_to_one=1), small_batch((2, 1))
    memory = task.student.encode(batch.images, batch.padding_mask)
    decoded, proposed = task.extra(memory, batch.truth, task.loss)
    assert [decoded.name, proposed.name, proposed.queries] == ["one_to_one_0", "one_to_one_0_proposal", None]
    assert not decoded.queries.identity.equal(task.student.initial_queries(memory).queries.identity)
    proposed.predictions.logits.sum().backward()
    assert all(each.grad is None for each in task.student.query_source.parameters())


@pytest.mark.parametrize("changes", [{"one_to_one": -1}, {"one_to_many": -1}, {"repeats": 0}], ids=str)
def test_invalid_value_is_named(changes: dict) -> None:
    with pytest.raises(ValueError, match=f"groups.{next(iter(changes))} is"):
        dataclasses.replace(GroupsConfig(), **changes)


@pytest.mark.parametrize("where", ["own", "one_to_many"])
def test_nan_of_a_group_raises_with_images_and_loss(
    where: str,
) -> None:
    task, batch = task_with(one_to_many=12, repeats=2), small_batch((2, 1))
    decode = task.student.decode

    def spoilt(memory: Memory, groups: dict[str, Queries]) -> dict[str, Predictions]:
        found = decode(memory, groups)
        wrong = torch.zeros_like(found[where].logits)
        wrong[-1, 1, 0] = torch.nan
        return found | {where: dataclasses.replace(found[where], logits=found[where].logits + wrong)}

    whole = task(batch)
    task.student.decode = spoilt
    with pytest.raises(NonFiniteCostError, match="image 1 of the batch") as caught:
        task(batch)
    assert caught.value.images == (1,)
    assert caught.value.found.keys() == whole.keys()
    assert caught.value.found["loss"].isnan()
    caught.value.found["loss"].backward()
    assert all(each.grad.isnan().any() for each in task.student.decoder.heads[0].parameters() if each.grad is not None)
