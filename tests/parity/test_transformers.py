"""Deformable-DETR beside Hugging Face transformers' with the same weights: the same outputs, losses and gradients.

Both are small and random. The weights of transformers travel by the official key names into ours, and ours reads the
maps of transformers' own backbone. What transformers 5.23 does unlike the official code, and what is done about it:

- Its matching weighs classes by 1 (`class_cost`), and its loss weighs `loss_ce` by a 1 that no option changes; both are
  officially 2. Ours are set to 1 by `MatchingWeights` and `LossConfig`. L1 (5) and GIoU (2) agree.
- It has losses for the layers before the last only with `auxiliary_loss=True`, the official default, which is set.
- With box refinement in one stage it ties the class heads of all layers (`_tied_weights_keys`); officially, and in
  ours, each layer has its own. They are parted before the weights are drawn.
- It returns the two-stage proposals, and has no loss for them. Its own criterion is applied to them as the official
  code does, with every class set to 0, and added to its total with the same weights.

Nothing else is set: the matching's formula, the focal loss summed over queries and classes, and the division by the
objects of the batch (at least 1) are alike.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oddetr.checkpoints.foreign import load_official_state, official_names
from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.losses.detection import LossConfig, detection_loss
from oddetr.losses.matching import MatchingWeights, hungarian, matching_cost
from oddetr.models.detector import Detector
from oddetr.models.families.build import DetectorConfig, compose
from oddetr.structures import Batch, GroundTruth, Predictions

transformers = pytest.importorskip("transformers", minversion="5.23")

CLASSES = 5
SMALL = DetectorConfig(width=64, heads=4, ffn_width=96, encoder_layers=3, decoder_layers=3, points=3, num_queries=20)
MATCHING, LOSS = MatchingWeights(classes=1.0), LossConfig("focal", classes=1.0)
PARTS = {"classes": "loss_ce", "l1": "loss_bbox", "giou": "loss_giou"}


class TheirBackbone(nn.Module):
    """The maps of transformers' backbone."""

    def __init__(self, convolutions: Any) -> None:
        super().__init__()
        self.convolutions = convolutions.model
        self.channels = list(convolutions.intermediate_channel_sizes)

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.convolutions(images).feature_maps)


def official_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the official names, without the backbone."""
    return official_names({name: value for name, value in tensors.items() if not name.startswith("model.backbone.")})


def their_detector(variant: str) -> Any:
    """Small, with noise on every parameter, so that none can be left out or exchanged."""
    sizes = {"layers": 3, "ffn_dim": SMALL.ffn_width, "attention_heads": SMALL.heads, "n_points": SMALL.points}
    stages = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    config = transformers.DeformableDetrConfig(
        backbone_config=transformers.ResNetConfig(**stages, out_features=["stage2", "stage3", "stage4"]),
        num_labels=CLASSES,
        num_queries=SMALL.num_queries,
        two_stage_num_proposals=SMALL.num_queries,
        d_model=SMALL.width,
        with_box_refine=variant != "plain",
        two_stage=variant == "two_stage",
        auxiliary_loss=True,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()},
    )
    detector = transformers.DeformableDetrForObjectDetection(config).eval()
    if variant == "refine":
        detector.class_embed = nn.ModuleList(copy.deepcopy(head) for head in detector.class_embed)
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if not name.startswith("model.backbone."):
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return detector


def padded_batch() -> Batch:
    """Three images, the second without objects; two are padded, the last to a size that no stride divides."""
    mask = torch.ones(3, 128, 160, dtype=torch.bool)
    for image, (height, width) in enumerate([(128, 160), (96, 160), (101, 75)]):
        mask[image, :height, :width] = False
    images = torch.randn(3, 3, 128, 160).masked_fill(mask[:, None], 0.0)
    labels = [torch.randint(CLASSES, (count,)) for count in (4, 0, 3)]
    truth = GroundTruth.stack(labels, [torch.rand(len(each), 4) * 0.4 + 0.2 for each in labels])
    return Batch(images, mask, truth, image_ids=(0, 1, 2), original_sizes=torch.full((3, 2), 128))


@dataclass(frozen=True)
class Pair:
    """Two detectors with the same weights, a batch, and what theirs gave and lost for it."""

    ours: Detector
    theirs: Any
    batch: Batch
    output: Any
    criterion: Any

    def supervised(self) -> dict[str, tuple[Predictions, list[dict[str, Tensor]], GroundTruth]]:
        """Our predictions, theirs layer by layer, and what they should find: of the decoder, and of the proposals."""
        memory = self.ours.encode(self.batch.images, self.batch.padding_mask)
        initial, truth, output = self.ours.initial_queries(memory), self.batch.truth, self.output
        theirs = [*output.auxiliary_outputs, {"logits": output.logits, "pred_boxes": output.pred_boxes}]
        parts = {"decoder": (self.ours.decode(memory, {"own": initial.queries})["own"], theirs, truth)}
        if initial.proposals is not None:
            theirs = [{"logits": output.enc_outputs_class, "pred_boxes": output.enc_outputs_coord_logits.sigmoid()}]
            parts["proposals"] = (initial.proposals, theirs, replace(truth, labels=truth.labels.clamp(max=0)))
        return parts


def their_truth(truth: GroundTruth) -> list[dict[str, Tensor]]:
    images = zip(truth.labels, truth.boxes, truth.counts, strict=True)
    return [{"class_labels": labels[:count], "boxes": boxes[:count]} for labels, boxes, count in images]


@pytest.fixture(scope="module", params=["plain", "refine", "two_stage"])
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(7)
    theirs, batch = their_detector(request.param), padded_batch()
    ours = compose(replace(SMALL, variant=request.param), CLASSES, TheirBackbone(theirs.model.backbone)).eval()
    load_official_state(ours, official_state(theirs.state_dict()))
    output = theirs(batch.images, pixel_mask=(~batch.padding_mask).long(), labels=their_truth(batch.truth))
    config, module = theirs.config, transformers.loss.loss_deformable_detr
    matcher = module.DeformableDetrHungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
    criterion = module.DeformableDetrImageLoss(matcher, CLASSES, config.focal_alpha, losses=["labels", "boxes"])
    return Pair(ours, theirs, batch, output, criterion)


def test_outputs_equal_transformers_in_every_layer(pair: Pair) -> None:
    for ours, theirs, _ in pair.supervised().values():
        assert ours.boxes.std(dim=2).min() > 1e-3, "every coordinate must vary from query to query"
        for name, key in (("logits", "logits"), ("boxes", "pred_boxes")):
            expected = torch.stack([layer[key] for layer in theirs])
            torch.testing.assert_close(getattr(ours, name), expected, atol=1e-5, rtol=1e-5)


def test_assignments_and_losses_equal_transformers_in_every_layer(pair: Pair) -> None:
    for part, (ours, theirs, truth) in pair.supervised().items():
        (assignment,) = hungarian(matching_cost(ours, truth, MATCHING), counts=truth.counts)
        loss = detection_loss(ours, truth, (assignment,), float(truth.total), "focal")
        losses = pair.output.loss_dict if part == "decoder" else pair.criterion(theirs[0], their_truth(truth))
        for index, layer in enumerate(theirs):
            expected = torch.full_like(assignment[index], -1)
            for image, (queries, objects) in enumerate(pair.criterion.matcher(layer, their_truth(truth))):
                expected[image, queries] = objects
            assert assignment[index].equal(expected)
            suffix = "" if index == len(theirs) - 1 else f"_{index}"
            for name, key in PARTS.items():
                torch.testing.assert_close(getattr(loss, name)[index], losses[key + suffix], atol=1e-5, rtol=1e-5)


def test_loss_and_gradients_equal_transformers(pair: Pair) -> None:
    expected, supervised = pair.output.loss, pair.supervised()
    if "proposals" in supervised:
        _, theirs, truth = supervised["proposals"]
        losses = pair.criterion(theirs[0], their_truth(truth))
        expected = expected + sum(getattr(LOSS, name) * losses[key] for name, key in PARTS.items())
    expected.backward()
    gradients = copy.deepcopy(pair.ours)  # their gradients, in the places of our parameters
    state = {name: value.grad for name, value in pair.theirs.state_dict(keep_vars=True).items()}
    load_official_state(gradients, official_state(state))

    task = DistillationTask(pair.ours, 1, DistillationConfig(enabled=False), LOSS, MATCHING)
    loss = task(pair.batch)["loss"]
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for (name, ours), theirs in zip(pair.ours.named_parameters(), gradients.parameters(), strict=True):
        if not name.startswith("backbone."):
            assert theirs.norm() > 0, name
            # As a whole: one sampling point on the edge of a cell is enough for rounding to move single gradients.
            assert (ours.grad - theirs).norm() < 1e-2 * theirs.norm(), name
