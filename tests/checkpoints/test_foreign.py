"""Official state dicts under their own key names; tests/parity does the same with the official weights' values."""

import re

import pytest
import torch
from torch import Tensor

from oddetr.checkpoints.foreign import load_official_state
from oddetr.models.detector import Detector
from tests.models.helpers import VARIANTS, small_detector


def official_state(detector: Detector, variant: str) -> dict[str, Tensor]:
    """The detector's weights under official names, with the copies that official checkpoints hold."""
    rules = [
        (r"^backbone\.", "backbone.0."),
        (r"^pyramid\.projections\.", "input_proj."),
        (r"^encoder\.", "transformer.encoder."),
        (r"^transformer\.encoder\.level_embed", "transformer.level_embed"),
        (r"^decoder\.layers\.", "transformer.decoder.layers."),
        (r"^decoder\.heads\.(\d+)\.classes", r"class_embed.\1"),
        (r"^decoder\.heads\.(\d+)\.boxes", r"bbox_embed.\1"),
        (r"^decoder\.norm", "transformer.decoder.norm"),
        (r"^decoder\.position\.embed", "transformer.decoder.ref_point_head"),
        (r"^decoder\.position\.scale", "transformer.decoder.query_scale"),
        (r"^query_source\.head\.classes", "transformer.enc_out_class_embed" if variant == "dino" else "class_embed.2"),
        (r"^query_source\.head\.boxes", "transformer.enc_out_bbox_embed" if variant == "dino" else "bbox_embed.2"),
        (r"^query_source\.token_projection", "transformer.enc_output"),
        (r"^query_source\.token_norm", "transformer.enc_output_norm"),
        (r"^query_source\.position_projection", "transformer.pos_trans"),
        (r"^query_source\.position_norm", "transformer.pos_trans_norm"),
        (r"^query_source\.embedding", "query_embed"),
        (r"^query_source\.content", "transformer.tgt_embed" if variant == "dino" else "tgt_embed"),
        (r"^query_source\.anchor_logits", "refpoint_embed"),
        (r"^denoising\.labels", "label_enc"),
        (r"^query_source\.reference_points", "transformer.reference_points"),
    ]
    state: dict[str, Tensor] = {}
    for key, value in detector.state_dict().items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        state[key] = value.clone()
    heads = {key: value for key, value in state.items() if key.startswith(("class_embed", "bbox_embed"))}
    if variant in ("plain", "dino"):
        state |= {key.replace("embed.0", "embed.1"): value for key, value in heads.items()}
    if variant != "plain":
        heads = {key: value for key, value in state.items() if key.startswith(("class_embed", "bbox_embed"))}
        state |= {f"transformer.decoder.{key}": value for key, value in heads.items()}
    return {key: value for key, value in state.items() if not key.startswith("backbone.")}


@pytest.mark.parametrize("variant", VARIANTS)
def test_load_official_state_fills_every_weight(variant: str) -> None:
    source, target = small_detector(variant, seed=1), small_detector(variant, seed=2)
    load_official_state(target, official_state(source, variant))
    for key, value in source.state_dict().items():
        if not key.startswith("backbone."):
            assert target.state_dict()[key].equal(value), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("transformer.level_embed"), "Missing key.*encoder.level_embed"),
        (lambda s: s.update({"transformer.strange": torch.zeros(1)}), "Unexpected key.*transformer.strange"),
        (
            lambda s: s.update({"class_embed.0.weight": torch.zeros(9, 32)}),
            r"torch.Size\(\[9, 32\]\).*torch.Size\(\[3, 32\]\)",
        ),
    ],
    ids=["missing", "left over", "shape"],
)
def test_load_official_state_when_it_does_not_fit_then_says_where(change: object, message: str) -> None:
    detector = small_detector("refine")
    state = official_state(detector, "refine")
    state = {key: value for key, value in state.items() if not key.startswith("transformer.decoder.class")}
    change(state)
    with pytest.raises(ValueError, match=message):
        load_official_state(detector, state)


def test_load_official_state_when_shared_heads_differ_then_refuses() -> None:
    detector = small_detector("plain")
    state = official_state(detector, "plain")
    state["class_embed.1.weight"] = state["class_embed.1.weight"] + 1
    with pytest.raises(ValueError, match="shares one head"):
        load_official_state(detector, state)
