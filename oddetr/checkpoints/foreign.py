"""Read checkpoints of the official Deformable-DETR, DAB-Deformable-DETR and DINO, and of transformers' DeformableDetr.

All are converted to a state dict with the official names, which is loaded into a detector.
"""

import argparse
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from oddetr.checkpoints.state_dicts import STATES, find_state, resemblance, without_prefixes
from oddetr.common.untrusted import NotTheFile, read_json, read_safetensors, read_weights_only
from oddetr.models.decoder import DeformableDecoder
from oddetr.models.detector import Detector
from oddetr.models.families.build import DetectorConfig, Variant
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
"""Official names, and ours."""
_HEAD = re.compile(r"^(?:transformer\.decoder\.)?(class|bbox)_embed\.(\d+)\.(.*)$")
_COUNTER = ".num_batches_tracked"
"""A buffer of batch norms; frozen ones have it only in newer versions of torchvision."""


def load_official_state(detector: Detector, state: Mapping[str, Tensor]) -> None:
    """Load a state dict with the official names, in any float precision, into `detector`.

    Names must match one to one; only if `state` has no backbone at all, the detector keeps its own.

    Raises:
        ValueError: a tensor is missing, left over or of another shape, or a head that layers share has different
            weights in them.
    """
    decoder = cast(DeformableDecoder, detector.decoder)
    layers, heads = len(decoder.layers), len(decoder.heads)
    agnostic = cast(QuerySource, detector.query_source).class_agnostic
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _our_name(key, layers, heads, agnostic)
        if name in renamed and not renamed[name].equal(value):
            raise ValueError(f"The checkpoint has different weights where the detector shares one head: {key}.")
        renamed[name] = value
    whole = any(name.startswith("backbone.") for name in renamed)
    own = detector.state_dict()
    kept = {name for name in own if name.endswith(_COUNTER) or (name.startswith("backbone.") and not whole)}
    found = {name: value for name, value in renamed.items() if name in own or not name.endswith(_COUNTER)}
    try:
        detector.load_state_dict({name: own[name] for name in kept} | found)
    except RuntimeError as error:
        problem = " ".join(str(error).partition("\n")[2].split())
        raise ValueError(f"The checkpoint does not fit this detector: {problem[:500]}") from error


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
    """A checkpoint that oddetr did not write.

    Attributes:
        state: weights with the official names.
        config: the detector's configuration.
        num_classes: number of class outputs.
        classes: their names; empty if the checkpoint has none.
    """

    state: dict[str, Tensor]
    config: DetectorConfig
    num_classes: int
    classes: tuple[str, ...] = ()

    def take_classes(self, outputs: Sequence[int]) -> "Foreign":
        """Keep only these class outputs, in this order.

        Two-stage Deformable-DETR ranks proposals by the first output of the encoder's head, whatever its class, so
        there the first one stays the first.
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
    """Read an official checkpoint file, or a folder of transformers' DeformableDetr, as weights only.

    Raises:
        OSError: a file cannot be read, or is no regular file.
        ValueError: it is neither, or an unsupported detector; says what was found.
    """
    if not path.exists():
        raise ValueError(f"There is no {path}. Give an official checkpoint (.pth), or a folder of transformers.")
    try:
        return _read_transformers(path) if path.is_dir() else _read_official(path)
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is damaged: a weight or an argument is not as it must be ({type(error).__name__}: {error})."
        ) from error


def _read_official(path: Path) -> Foreign:
    content = _content(path)
    keys: dict[Any, Any] = content if isinstance(content, dict) else {}
    state = find_state(content)
    if state is None:
        found = f"the keys {', '.join(map(str, list(keys)[:6]))}" if keys else type(content).__name__
        raise ValueError(f"{path} holds no state dict, neither by itself nor under {', '.join(STATES)}; found {found}.")
    arguments = next((keys[name] for name in _ARGUMENTS if name in keys), None)
    arguments = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    return describe_state(without_prefixes(state), arguments if isinstance(arguments, dict) else None)


_ARGUMENTS = ("args", "hyper_parameters")
"""Where the training's arguments are: officially, and of Lightning."""


def _content(path: Path) -> Any:
    """What the file holds; raises ValueError with the cure where it holds more than weights."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return read_weights_only(path)
    except NotTheFile:
        raise
    except ValueError as error:
        yolo = "It is YOLO's, which cannot be converted. " if re.search(r"ultralytics|models\.yolo", str(error)) else ""
        raise ValueError(
            f"{error} {yolo}Save its state dict alone: torch.save({{'model': model.state_dict()}}, 'weights.pth')."
        ) from error


def describe_state(state: dict[str, Tensor], arguments: Mapping[str, Any] | None = None) -> Foreign:
    """Find the detector's configuration for an official state dict, from the shapes of the weights.

    Args:
        arguments: of the official training, if known: heads, queries and dropout cannot be seen from every state.
            Default: the official 8 heads, and 300 queries if the encoder selects them.

    Raises:
        ValueError: keys are missing that every such detector has, or sizes contradict one another.
    """
    arguments = arguments or {}
    for key in _NEEDED:
        if key not in state:
            have = ", ".join(list(state)[:3]) or "nothing"
            raise ValueError(
                f"This is no checkpoint of Deformable-DETR, DAB-Deformable-DETR or DINO: {key} is missing; {have} ... "
                f"are there. {resemblance(state)}".rstrip()
            )
        if state[key].ndim != 2:
            raise ValueError(f"{key} has {state[key].ndim} axes, where such a checkpoint has 2.")
    if arguments.get("dilation"):
        raise ValueError("The checkpoint is of a dilated backbone (DC5), which is not built here.")
    levels, width = state["transformer.level_embed"].shape
    heads = _positive(arguments, "nheads", 8)
    rows = state[_ATTENTION_WEIGHTS].shape[0]
    if rows % (heads * levels):
        raise ValueError(
            f"{_ATTENTION_WEIGHTS} has {rows} rows, which {heads} heads of {levels} levels cannot share (nheads)."
        )
    queries = next((state[key] for key in _QUERIES if key in state), None)
    denoising = "label_enc.weight" in state
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
        points=rows // (heads * levels),
        num_queries=len(queries) if queries is not None else _positive(arguments, "num_queries", 300),
        dropout=float(arguments.get("dropout", 0.0 if denoising or "refpoint_embed.weight" in state else 0.1)),
        denoising=100 if denoising else 0,
        top_k=_positive(arguments, "num_select", 300 if denoising else 100),
    )
    outputs = state["class_embed.0.weight"].shape[0]
    if denoising and len(state["label_enc.weight"]) != outputs + 1:
        labels = state["label_enc.weight"]
        state = state | {"label_enc.weight": torch.cat([labels[:outputs], labels[-1:]])}
    return Foreign(state, config, outputs)


def _positive(arguments: Mapping[str, Any], name: str, default: int) -> int:
    value = arguments.get(name, default)
    if not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{name} is {reprlib.repr(value)} in the checkpoint's arguments; it must be a whole number of at least 1."
        )
    return value


_ATTENTION_WEIGHTS = "transformer.decoder.layers.0.cross_attn.attention_weights.weight"
_NEEDED = (
    "transformer.level_embed",
    "class_embed.0.weight",
    "transformer.encoder.layers.0.linear1.weight",
    _ATTENTION_WEIGHTS,
)
_QUERIES = ("query_embed.weight", "tgt_embed.weight", "transformer.tgt_embed.weight")
_BODY = "backbone.0.body."


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count layers: one more than the highest number that the pattern captures; 0 without any."""
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
    """Find the ResNet that has these keys."""
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
"""Names in transformers, before and since version 5, and official ones."""


def official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of transformers' DeformableDetrForObjectDetection to the official names.

    Query, key and value projections are joined; a head that layers share, stored once, is repeated for each layer.
    """
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
    found = describe_state(state, arguments)
    placeholder = classes == tuple(f"LABEL_{index}" for index in range(len(classes)))
    return replace(found, classes=() if placeholder or "N/A" in classes else classes)
