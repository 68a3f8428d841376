"""Other people's checkpoints: the official key names of Deformable-DETR's three variants."""

import re
from collections.abc import Mapping
from typing import cast

from torch import Tensor

from oddetr.models.decoder import DeformableDecoder
from oddetr.models.detector import Detector
from oddetr.models.queries import TwoStageQueries

_RENAMES = (
    (r"^backbone\.0\.body\.", "backbone.body."),
    (r"^input_proj\.", "pyramid.projections."),
    (r"^transformer\.level_embed$", "encoder.level_embed"),
    (r"^transformer\.encoder\.", "encoder."),
    (r"^transformer\.decoder\.(layers|norm)\.", r"decoder.\1."),
    (r"^transformer\.decoder\.ref_point_head\.", "decoder.position.embed."),
    (r"^transformer\.decoder\.query_scale\.", "decoder.position.scale."),
    (r"^transformer\.enc_output\.", "query_source.token_projection."),
    (r"^transformer\.enc_output_norm\.", "query_source.token_norm."),
    (r"^transformer\.pos_trans\.", "query_source.position_projection."),
    (r"^transformer\.pos_trans_norm\.", "query_source.position_norm."),
    (r"^transformer\.reference_points\.", "query_source.reference_points."),
    (r"^query_embed\.", "query_source.embedding."),
    (r"^(?:transformer\.)?tgt_embed\.", "query_source.content."),
    (r"^refpoint_embed\.", "query_source.anchor_logits."),
    (r"^transformer\.enc_out_class_embed\.", "query_source.head.classes."),
    (r"^transformer\.enc_out_bbox_embed\.", "query_source.head.boxes."),
    (r"^label_enc\.", "denoising.labels."),
)
_HEAD = re.compile(r"^(?:transformer\.decoder\.)?(class|bbox)_embed\.(\d+)\.(.*)$")


def load_official_state(detector: Detector, state: Mapping[str, Tensor]) -> None:
    """Loads an official Deformable-DETR state dict (its key names, any float precision) into `detector`.

    Every tensor must find its place, and every place its tensor; only a detector whose backbone has no weights of its
    own in `state` keeps them.

    Raises:
        ValueError: tensors that are missing, left over or of another shape, or heads that the official model shares
            between layers but `state` holds with different values.
    """
    decoder = cast(DeformableDecoder, detector.decoder)
    layers, heads = len(decoder.layers), len(decoder.heads)
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _our_name(key, layers, heads, isinstance(detector.query_source, TwoStageQueries))
        if name in renamed and not renamed[name].equal(value):
            raise ValueError(f"The checkpoint has different weights where the detector shares one head: {key}.")
        renamed[name] = value
    wanted = detector.state_dict()
    has_backbone = any(name.startswith("backbone.") for name in renamed)
    problems = [
        *(f"missing {name}" for name in wanted if name not in renamed and _must_come(name, has_backbone)),
        *(f"left over {name}" for name in renamed if name not in wanted),
        *(
            f"{name} is {tuple(value.shape)}, the detector's is {tuple(wanted[name].shape)}"
            for name, value in renamed.items()
            if name in wanted and wanted[name].shape != value.shape
        ),
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError("The checkpoint does not fit this detector: " + "; ".join(problems[:5]) + more + ".")
    detector.load_state_dict(renamed, strict=False)


def _must_come(name: str, has_backbone: bool) -> bool:
    return not name.endswith("num_batches_tracked") and (has_backbone or not name.startswith("backbone."))


def _our_name(key: str, layers: int, heads: int, two_stage: bool) -> str:
    found = _HEAD.match(key)
    if found:
        kind, index, rest = found[1], int(found[2]), found[3]
        owner = "query_source.head" if two_stage and index == layers else f"decoder.heads.{index % heads}"
        return f"{owner}.{'classes' if kind == 'class' else 'boxes'}.{rest}"
    for pattern, replacement in _RENAMES:
        key, changed = re.subn(pattern, replacement, key)
        if changed:
            break
    return key
