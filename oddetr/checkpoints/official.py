"""Other people's checkpoints: files of the official Deformable-DETR, DAB-Deformable-DETR and DINO, and folders of
transformers' DeformableDetr. All become a state of the official key names, which is loaded."""

import argparse
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from oddetr.common.untrusted import read_json, read_safetensors, read_weights_only
from oddetr.models.decoder import DeformableDecoder
from oddetr.models.detector import Detector
from oddetr.models.families.presets import DetectorConfig, Variant
from oddetr.models.queries import QuerySource

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


_COUNTER = ".num_batches_tracked"
"""Of batch norms; frozen ones of newer torchvisions have it, older ones have not."""


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
        name = _our_name(key, layers, heads, cast(QuerySource, detector.query_source).class_agnostic)
        if name in renamed and not renamed[name].equal(value):
            raise ValueError(f"The checkpoint has different weights where the detector shares one head: {key}.")
        renamed[name] = value
    wanted = detector.state_dict()
    has_backbone = any(name.startswith("backbone.") for name in renamed)
    problems = [
        *(f"missing {name}" for name in wanted if name not in renamed and _must_come(name, has_backbone)),
        *(f"left over {name}" for name in renamed if name not in wanted and not name.endswith(_COUNTER)),
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
    return not name.endswith(_COUNTER) and (has_backbone or not name.startswith("backbone."))


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


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of someone else's.

    Attributes:
        state: weights under the official key names.
        config: the detector that they are of.
        num_classes: its outputs.
        classes: their names, where the checkpoint knows them; else empty.
    """

    state: dict[str, Tensor]
    config: DetectorConfig
    num_classes: int
    classes: tuple[str, ...] = ()

    def take_classes(self, outputs: Sequence[int]) -> "Foreign":
        """The same with these class outputs only, in this order.

        Two-stage Deformable-DETR ranks proposals by the first output of the encoder's head, whatever its class: that
        stays the first there.
        """
        state: dict[str, Tensor] = {}
        chosen = torch.tensor(outputs)
        for key, value in self.state.items():
            owner = re.search(r"class_embed\.(?:(\d+)\.)?(?:weight|bias)$", key)
            if key == "label_enc.weight":
                value = value[torch.cat([chosen, torch.tensor([len(value) - 1])])]
            elif owner:
                ranks = self.config.variant == "two_stage" and owner[1] == str(self.config.decoder_layers)
                value = value[torch.cat([torch.tensor([0]), chosen[1:]]) if ranks else chosen]
            state[key] = value
        return replace(self, state=state, num_classes=len(outputs))


def read_foreign(path: Path) -> Foreign:
    """Reads an official checkpoint file, or a folder of transformers' DeformableDetr: weights only, executing nothing.

    Raises:
        OSError: it, or a file in it, cannot be read, or is no regular file.
        ValueError: it is neither, or of a detector that is not built here; says what was found.
    """
    if path.is_dir():
        return _understood(path, lambda: _read_transformers(path))
    if not path.exists():
        raise ValueError(f"There is no {path}. Give an official checkpoint (.pth), or a folder of transformers.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = read_weights_only(path)
    except ValueError as error:
        raise ValueError(
            f"{error} Save its state dict alone: torch.save({{'model': model.state_dict()}}, 'weights.pth')."
        ) from error
    state = next((content[key] for key in _STATES if key in content), content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        found = (
            f"the keys {', '.join(map(str, list(content)[:6]))}"
            if isinstance(content, dict)
            else type(content).__name__
        )
        raise ValueError(
            f"{path} holds no state dict, neither by itself nor under {', '.join(_STATES)}; found {found}."
        )
    arguments = content.get("args")
    arguments = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    told = cast(dict[str, Any], arguments) if isinstance(arguments, dict) else None
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    return _understood(path, lambda: described(plain, told))


def _understood(path: Path, read: Callable[[], Foreign]) -> Foreign:
    """What `read` reads; whatever it trips over where a file is not what it looks like becomes a ValueError."""
    try:
        return read()
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(
            f"{path} looks like a checkpoint of these, but is not: a weight or an argument is not as it must be "
            f"({type(error).__name__}: {error})."
        ) from error


_STATES = ("model", "state_dict", "ema_model")
"""Where a file may have its state dict, else it is one; the first that is there."""


def described(state: dict[str, Tensor], arguments: Mapping[str, Any] | None = None) -> Foreign:
    """What an official state is of: sizes are read off the weights' shapes.

    Args:
        arguments: of the official training, where the file has them: heads, queries and dropout are not seen in every
            state. Default: the official 8 heads, and 300 queries where the encoder chooses them.

    Raises:
        ValueError: keys are missing that every such detector has, or sizes that do not go together.
    """
    arguments = arguments or {}
    for key in _NEEDED:
        if key not in state:
            have = ", ".join(list(state)[:3]) or "nothing"
            raise ValueError(
                f"This is no checkpoint of Deformable-DETR, DAB-Deformable-DETR or DINO: {key} is missing; {have} ... "
                "are there."
            )
        if state[key].ndim != 2:
            raise ValueError(f"{key} has {state[key].ndim} axes, where such a checkpoint has 2.")
    if arguments.get("dilation"):
        raise ValueError("The checkpoint is of a dilated backbone (DC5), which is not built here.")
    levels, width = state["transformer.level_embed"].shape
    heads = _whole(arguments, "nheads", 8)
    weighed = state[_WEIGHED].shape[0]
    if weighed % (heads * levels):
        raise ValueError(
            f"{_WEIGHED} has {weighed} rows, which {heads} heads of {levels} levels cannot share (nheads)."
        )
    slots = next((state[key] for key in _SLOTS if key in state), None)
    denoised = "label_enc.weight" in state
    config = DetectorConfig(
        variant=_variant(state),
        backbone=_backbone(state),
        width=width,
        heads=heads,
        ffn_width=state["transformer.encoder.layers.0.linear1.weight"].shape[0],
        encoder_layers=_count(state, r"transformer\.encoder\.layers\.(\d+)\."),
        decoder_layers=_count(state, r"transformer\.decoder\.layers\.(\d+)\."),
        maps=sum(value.shape[-1] == 1 for key, value in state.items() if re.match(r"input_proj\.\d+\.0\.weight$", key)),
        levels=levels,
        points=weighed // (heads * levels),
        num_queries=len(slots) if slots is not None else _whole(arguments, "num_queries", 300),
        dropout=float(arguments.get("dropout", 0.0 if denoised or "refpoint_embed.weight" in state else 0.1)),
        denoising=100 if denoised else 0,
        top_k=_whole(arguments, "num_select", 300 if denoised else 100),
    )
    outputs = state["class_embed.0.weight"].shape[0]
    if denoised and len(state["label_enc.weight"]) != outputs + 1:
        labels = state["label_enc.weight"]
        state = state | {"label_enc.weight": torch.cat([labels[:outputs], labels[-1:]])}
    return Foreign(state, config, outputs)


def _whole(arguments: Mapping[str, Any], name: str, default: int) -> int:
    value = arguments.get(name, default)
    if not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{name} is {reprlib.repr(value)} in the checkpoint's arguments; it must be a whole number of at least 1."
        )
    return value


_WEIGHED = "transformer.decoder.layers.0.cross_attn.attention_weights.weight"
_NEEDED = (
    "transformer.level_embed",
    "class_embed.0.weight",
    "transformer.encoder.layers.0.linear1.weight",
    _WEIGHED,
)
_SLOTS = ("query_embed.weight", "tgt_embed.weight", "transformer.tgt_embed.weight")
_BODY = "backbone.0.body."


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many are numbered so; 0 where there are none."""
    return 1 + max((int(found[1]) for found in (re.match(pattern, key) for key in state) if found), default=-1)


def _variant(state: Mapping[str, Tensor]) -> Variant:
    if "transformer.enc_out_class_embed.weight" in state:
        return "dino"
    if "refpoint_embed.weight" in state:
        return "dab"
    if "transformer.enc_output.weight" in state:
        return "two_stage"
    return "refine" if "transformer.decoder.bbox_embed.0.layers.0.weight" in state else "plain"


def _backbone(state: Mapping[str, Tensor]) -> str:
    """The ResNet that the keys are of."""
    if f"{_BODY}layer1.0.conv1.weight" not in state:
        found = next((key for key in state if key.startswith("backbone.")), "no key of a backbone")
        raise ValueError(f"Only ResNet backbones can be converted (keys {_BODY}layer1...); found {found}.")
    blocks = _count(state, re.escape(_BODY) + r"layer3\.(\d+)\.")
    bottleneck = f"{_BODY}layer1.0.conv3.weight" in state
    names = {(True, 6): "resnet50", (True, 23): "resnet101", (True, 36): "resnet152"}
    names |= {(False, 2): "resnet18", (False, 6): "resnet34"}
    if (bottleneck, blocks) not in names:
        raise ValueError(f"The backbone is no ResNet that is known here: its third stage has {blocks} blocks.")
    return names[bottleneck, blocks]


_TRANSFORMERS = (
    (r"^model\.backbone\..*?\b((?:conv1|bn1|layer\d)\..*)$", _BODY + r"\1"),
    (r"^model\.query_position_embeddings\.", "query_embed."),
    (r"^model\.input_proj\.", "input_proj."),
    (r"^model\.", "transformer."),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm\.", r"\1.norm1."),
    (r"(decoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm2."),
    (r"(decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm3."),
    (r"(decoder\.layers\.\d+\.self_attn)\.o_proj\.", r"\1.out_proj."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.mlp\.fc([12])\.", r".linear\1."),
    (r"(layers\.\d+)\.fc([12])\.", r"\1.linear\2."),
)
"""Key names of transformers, of now and before version 5, and the official ones."""


def official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of transformers' DeformableDetrForObjectDetection under official names: query, key and value
    projections become one, and heads that are tied, of which a file holds one, as many as there are layers."""
    state: dict[str, Tensor] = {}
    for name, value in tensors.items():
        for pattern, replacement in _TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        state[name] = value
    for prefix in [name.removesuffix("q_proj.weight") for name in state if name.endswith("q_proj.weight")]:
        for kind in ("weight", "bias"):
            state[f"{prefix}in_proj_{kind}"] = torch.cat([state.pop(f"{prefix}{part}_proj.{kind}") for part in "qkv"])
    layers = _count(state, r"transformer\.decoder\.layers\.(\d+)\.")
    for name, value in list(state.items()):
        if re.match(r"^transformer\.decoder\.(class|bbox)_embed\.", name):
            state.setdefault(name.removeprefix("transformer.decoder."), value)
    for name, value in list(state.items()):
        head = re.match(r"^((?:class|bbox)_embed)\.0\.(.*)$", name)
        if head:
            for layer in range(1, layers):
                state.setdefault(f"{head[1]}.{layer}.{head[2]}", value)
    return state


def _read_transformers(folder: Path) -> Foreign:
    try:
        content = read_json(folder / "config.json")
        kind = content["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} is no folder of transformers: {error}. It needs config.json with model_type."
        ) from error
    if kind != "deformable_detr":
        raise ValueError(f"{folder} holds a {kind}; of transformers' detectors only deformable_detr can be converted.")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{folder} holds no *.safetensors. Save the model with save_pretrained of a recent transformers."
        )
    state = official_names({name: value for file in files for name, value in read_safetensors(file).items()})
    arguments = {
        "nheads": content.get("decoder_attention_heads", 8),
        "num_queries": content.get("two_stage_num_proposals", 300),
        "dropout": content.get("dropout", 0.1),
    }
    names = content.get("id2label") or {}
    classes = tuple(names[key] for key in sorted(names, key=int))
    found = described(state, arguments)
    placeholder = classes == tuple(f"LABEL_{index}" for index in range(len(classes)))
    return replace(found, classes=() if placeholder or "N/A" in classes else classes)
