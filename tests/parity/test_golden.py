"""The official implementations' outputs, file by file: `pytest tests/parity --golden DIR` for any other folder."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from oddetr.checkpoints.foreign import load_official_state
from oddetr.losses.detection import DetectionLoss, LossConfig, detection_loss
from oddetr.losses.matching import MatchingWeights, hungarian, matching_cost
from oddetr.models.families.build import DetectorConfig, compose
from oddetr.structures import GroundTruth, Predictions

VARIANTS = {
    "deformable_detr": "plain",
    "deformable_detr_refine": "refine",
    "deformable_detr_two_stage": "two_stage",
    "dab_deformable_detr": "dab",
    "dino": "dino",
}


class GivenFeatures(nn.Module):
    """A backbone that answers with the maps it was given."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps
        self.channels = [features.shape[1] for features in maps]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.maps


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder: Path = metafunc.config.getoption("--golden")
    files = sorted(folder.glob("*.safetensors"))
    if "golden_file" in metafunc.fixturenames:
        reason = pytest.mark.skip(reason=f"no golden files in {folder}")
        metafunc.parametrize(
            "golden_file", files or [pytest.param(None, marks=reason)], ids=[f.stem for f in files] or None
        )


def read(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(file, "pt") as handle:
        return handle.metadata() or {}, {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118


def build(metadata: dict[str, str], tensors: dict[str, Tensor]) -> nn.Module:
    maps = [tensors[f"input/feature_{index}"] for index in range(len(metadata["feature_channels"].split(",")))]
    config = DetectorConfig(
        variant=VARIANTS[metadata["variant"]],
        width=int(metadata["hidden_dim"]),
        heads=int(metadata["num_heads"]),
        ffn_width=int(metadata["ffn_dim"]),
        encoder_layers=int(metadata["encoder_layers"]),
        decoder_layers=int(metadata["decoder_layers"]),
        levels=int(metadata["num_levels"]),
        points=int(metadata["num_points"]),
        num_queries=int(metadata["num_queries"]),
        denoising=100 if metadata["variant"] == "dino" else 0,
    )
    detector = compose(config, int(metadata["num_classes"]), GivenFeatures(maps)).eval()
    weights = {key.removeprefix("weight/"): value for key, value in tensors.items() if key.startswith("weight/")}
    load_official_state(detector, weights)
    return detector


def test_outputs_equal_the_official_ones(golden_file: Path) -> None:
    metadata, tensors = read(golden_file)
    if "variant" not in metadata:
        pytest.skip("not a detector's file")
    detector = build(metadata, tensors)
    mask = tensors["input/padding_mask"].bool()
    with torch.no_grad():
        memory = detector.encode(torch.zeros(len(mask), 3, *mask.shape[1:]), mask)
        initial = detector.initial_queries(memory)
        predictions = detector.decode(memory, {"own": initial.queries})["own"]
    torch.testing.assert_close(predictions.logits, tensors["output/logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(predictions.boxes, tensors["output/boxes"], atol=1e-4, rtol=0)
    for kind in ("enc", "interm"):
        if f"output/{kind}_outputs_logits" in tensors:
            for name in ("logits", "boxes"):
                proposed, official = getattr(initial.proposals, name)[0], tensors[f"output/{kind}_outputs_{name}"]
                torch.testing.assert_close(proposed, official, atol=1e-4, rtol=0)


def truth_of(tensors: dict[str, Tensor], labels: Tensor) -> GroundTruth:
    count = tensors["input/gt_count"]
    padding = torch.arange(labels.shape[1]) >= count[:, None]
    return GroundTruth(labels.masked_fill(padding, -1), tensors["input/gt_boxes"], tuple(count.tolist()))


def predictions_of(logits: Tensor, boxes: Tensor) -> Predictions:
    return Predictions(logits, boxes, content=torch.zeros(*logits.shape[:-1], 1))


LOSSES = {"classes": "ce", "l1": "bbox", "giou": "giou"}


def lost(predictions: Predictions, truth: GroundTruth) -> tuple[Tensor, DetectionLoss]:
    """The Hungarian assignment and the focal loss of it."""
    (assignment,) = hungarian(matching_cost(predictions, truth, MatchingWeights()), counts=truth.counts)
    return assignment, detection_loss(predictions, truth, (assignment,), float(max(truth.total, 1)), "focal")


def test_criterion_equals_the_official_one(golden_file: Path) -> None:
    _, tensors = read(golden_file)
    if "input/gt_labels" not in tensors:
        pytest.skip("not a criterion's file")
    logits, boxes = (tensors[f"input/{name}"].requires_grad_() for name in ("logits", "boxes"))
    assignment, loss = lost(predictions_of(logits, boxes), truth_of(tensors, tensors["input/gt_labels"]))
    assert assignment.equal(tensors["output/assignment"])
    total = loss.weighted(LossConfig("focal"))
    total.backward()
    for ours, theirs in LOSSES.items():
        torch.testing.assert_close(getattr(loss, ours), tensors[f"output/loss_{theirs}"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(total, tensors["output/total"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits.grad, tensors["output/grad_logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(boxes.grad, tensors["output/grad_boxes"], atol=1e-5, rtol=0)


def test_proposal_losses_equal_the_official_ones(golden_file: Path) -> None:
    _, tensors = read(golden_file)
    if "input/encoder_logits" not in tensors:
        pytest.skip("no proposals in this file")
    predictions = predictions_of(tensors["input/encoder_logits"][None], tensors["input/encoder_boxes"][None])
    _, loss = lost(predictions, truth_of(tensors, torch.zeros_like(tensors["input/gt_labels"])))
    for ours, theirs in LOSSES.items():
        expected = tensors[f"output/loss_{theirs}_encoder"]
        torch.testing.assert_close(getattr(loss, ours)[0], expected, atol=1e-5, rtol=1e-5)
