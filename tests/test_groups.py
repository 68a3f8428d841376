"""Group DETR's and H-DETR's further groups of queries."""

import dataclasses

import pytest
import torch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.groups import GroupsConfig, one_to_many_assignment
from oddetr.losses import LossConfig, detection_loss
from oddetr.matching import MatchingWeights, NonFiniteCostError, hungarian, matching_cost
from oddetr.structures import GroundTruth, Memory, Predictions, Queries
from tests.models.helpers import small_batch, small_detector

OFF = DistillationConfig(enabled=False)


def task_with(variant: str = "refine", **groups: int) -> DistillationTask:
    torch.manual_seed(0)
    return DistillationTask(small_detector(variant), 10, OFF, LossConfig(), groups=GroupsConfig(**groups))


def test_one_to_many_when_computed_by_hand_then_each_object_has_its_cheapest_queries() -> None:
    """Five queries, two repeats of two objects; the cheapest four places are taken, query 4 has none. The second image
    has one object (two of the five), the third none."""
    cost = torch.tensor([[3.0, 9], [1, 9], [2, 1], [9, 2], [9, 9]]).expand(1, 3, 5, 2)
    truth = GroundTruth(torch.tensor([[0, 0], [0, -1], [-1, -1]]), torch.zeros(3, 2, 4), (2, 1, 0))
    assert one_to_many_assignment(cost, truth, 2)[0].tolist() == [[0, 0, 1, 1, -1], [-1, 0, 0, -1, -1], [-1] * 5]


def test_one_to_many_when_queries_are_few_then_all_have_an_object() -> None:
    truth = GroundTruth.stack([torch.tensor([0, 0])], [torch.rand(2, 4)])
    assert (one_to_many_assignment(torch.rand(2, 1, 3, 2), truth, 6) >= 0).all()


@pytest.mark.parametrize("variant", ["plain", "refine", "dab"])
def test_loss_when_there_are_groups_then_is_the_mean_of_each_and_the_one_to_many_loss_besides(variant: str) -> None:
    task, batch = task_with(variant, one_to_one=2, one_to_many=12, repeats=3), small_batch((2, 1))
    found = task(batch)
    student, truth = task.student, batch.truth
    memory = student.encode(batch.images, batch.padding_mask)
    groups = {"own": student.initial_queries(memory).queries} | task.extra(memory)
    assert [group.content.shape[1] for group in groups.values()] == [6, 6, 6, 12]
    expected = torch.zeros(())
    for name, predictions in student.decode(memory, groups).items():
        cost = matching_cost(predictions, truth, MatchingWeights())
        many = name == "one_to_many"
        (single,) = hungarian(cost, counts=truth.counts)
        assignment = one_to_many_assignment(cost, truth, 3) if many else single
        parts = detection_loss(predictions, truth, (assignment,), 9.0 if many else 3.0, "quality_focal")
        expected = expected + parts.weighted(LossConfig()) / (1 if many else 3)
    torch.testing.assert_close(found["loss"], expected)
    told = {"", "one_to_one_0_", "one_to_one_1_", "one_to_many_"}
    assert found.keys() == {"loss"} | {f"loss_{name}{part}" for name in told for part in ("classes", "l1", "giou")}


def test_student_when_there_are_groups_then_begins_and_decodes_as_without_and_saves_nothing_of_them() -> None:
    plain, task = (DistillationTask(small_detector("refine"), 10, OFF, groups=g) for g in (None, GroupsConfig(2, 12)))
    for (name, mine), (other, yours) in zip(
        plain.student.state_dict().items(), task.student.state_dict().items(), strict=True
    ):
        assert name == other
        assert mine.equal(yours)
    batch = small_batch((2, 1))
    assert plain.student(batch.images, batch.padding_mask).logits.equal(
        task.student(batch.images, batch.padding_mask).logits
    )
    assert len(list(task.learned())) == len(list(plain.learned())) + 3 * 3
    assert task.teacher.detector.state_dict().keys() == task.student.state_dict().keys()


@pytest.mark.parametrize("counts", [(2, 1), (0, 0), (9, 1)], ids=str)
def test_backward_when_images_have_few_or_many_objects_then_every_query_has_a_finite_gradient(counts: tuple) -> None:
    task = task_with(one_to_one=1, one_to_many=4)
    task(small_batch(counts))["loss"].backward()
    for name, parameter in task.learned():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_distillation_when_beside_groups_then_adds_its_terms() -> None:
    torch.manual_seed(0)
    task = DistillationTask(small_detector("refine"), 10, groups=GroupsConfig(one_to_many=12))
    found = task(small_batch((2, 1)))
    assert {"loss_one_to_many_l1", "loss_prediction_l1", "loss_auxiliary_l1"} <= found.keys()


def test_groups_when_queries_come_from_the_encoder_then_are_refused() -> None:
    with pytest.raises(ValueError, match="learned queries"):
        task_with("two_stage", one_to_one=1)


@pytest.mark.parametrize("changes", [{"one_to_one": -1}, {"one_to_many": -1}, {"repeats": 0}], ids=str)
def test_config_when_a_value_is_wrong_then_says_which(changes: dict) -> None:
    with pytest.raises(ValueError, match=f"groups.{next(iter(changes))} is"):
        dataclasses.replace(GroupsConfig(), **changes)


@pytest.mark.parametrize("where", ["own", "one_to_many"])
def test_loss_when_queries_of_a_group_predict_nan_then_the_error_has_the_images_the_loss_and_its_parts(
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
