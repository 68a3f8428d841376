"""Write a model card (README.md of a repository) from a checkpoint's description. Unknown facts are left out."""

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from oddetr.checkpoints.checkpoint import CheckpointInfo
from oddetr.common.nested import flat
from oddetr.common.untrusted import is_number
from oddetr.structures import Weights

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

LIBRARY = "oddetr"
_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
_SPECIAL = re.compile(r"([\\`*_\[\]|~$#])")
_INDEXED = {"AP": "AP at IoU 0.50:0.95", "AP50": "AP at IoU 0.50", "AP75": "AP at IoU 0.75"}


def model_card(
    info: CheckpointInfo,
    name: str,
    weights: Sequence[Weights] = ("teacher",),
    license: str | None = None,
    detections: int = 100,
) -> "ModelCard":
    """Make the card of a checkpoint.

    Args:
        info: paths in it are shown in full; remove them with `pretrained.without_paths`.
        name: the repository (user/name), or the folder's name.
        weights: which weights are beside the card.
        license: of the weights; None: the card names none.
        detections: how many of an image are kept (`Detector.top_k`).
    """
    from huggingface_hub import ModelCard, ModelCardData

    title = PurePosixPath(name).name
    teacher, student = (info.metrics.get(each, {}) for each in ("teacher", "student"))
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag="object-detection",
        tags=["object-detection", "detr", info.detector.family, *(["od-detr"] if _distilled(info) else [])],
        license=license,
        model_name=title,
        eval_results=_index(info) or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        title=in_markdown(title),
        detector=in_markdown(info.detector.summary),
        code_name=json.dumps(name, ensure_ascii=False),
        info=info,
        teacher=teacher,
        student=student,
        scores=[name for name in _SCORES if teacher.get(name) is not None or student.get(name) is not None],
        score=_score,
        in_markdown=in_markdown,
        data=_data(info),
        recipe=_recipe(info),
        distillation=_distillation(info),
        part=_validated_part(info),
        stability=_stability(info),
        student_is_here="student" in weights,
        detections=detections,
        versions=", ".join(f"{in_markdown(key)} {in_markdown(value)}" for key, value in info.versions.items()),
    )


def in_markdown(text: object) -> str:
    """Escape text to one line that Markdown shows literally, also in a table."""
    line = " ".join("".join(each if each.isprintable() else " " for each in str(text)).split())
    return _SPECIAL.sub(r"\\\1", escape(line, quote=False))


def _distilled(info: CheckpointInfo) -> bool:
    return bool(info.configuration.get("distillation", {}).get("enabled"))


def _data(info: CheckpointInfo) -> str | None:
    data = info.configuration.get("data")
    if data == "digits":
        fresh = info.configuration.get("digits", {}).get("fresh")
        return "oddetr's built-in digit scenes" + (", drawn anew in each epoch" if fresh else "")
    return in_markdown(data) if data else None


def _validated_part(info: CheckpointInfo) -> str | None:
    """Which part of the split was validated on, if Lightning's flags limit it."""
    limit = info.configuration.get("trainer", {}).get("limit_val_batches")
    if isinstance(limit, int):
        return f"its first {limit} batches"
    return f"the first {limit:.0%} of it" if isinstance(limit, float) and limit < 1 else None


def _index(info: CheckpointInfo) -> "list[EvalResult]":
    """The teacher's scores for the front matter."""
    from huggingface_hub import EvalResult

    data, scores = info.configuration.get("data"), info.metrics.get("teacher", {})
    if not data:
        return []
    part = _validated_part(info)
    return [
        EvalResult(
            task_type="object-detection",
            dataset_type=str(data),
            dataset_name=str(data),
            dataset_split="val",
            dataset_args={"part": part} if part else None,
            metric_type=name,
            metric_name=meaning,
            metric_value=round(scores[name], 4),
        )
        for name, meaning in _INDEXED.items()
        if scores.get(name) is not None
    ]


def _recipe(info: CheckpointInfo) -> dict[str, Any]:
    run = info.configuration
    optimizer, accumulate = run.get("optimizer", {}), run.get("accumulate") or 1
    start = run.get("init") or (run.get("model") if str(run.get("model")).startswith("hf:") else None)
    facts = {
        "epochs": run.get("epochs"),
        "batch size": run.get("batch_size") and f"{run['batch_size']}" + (f" x {accumulate}" if accumulate > 1 else ""),
        "learning rate": optimizer.get("learning_rate"),
        "schedule": optimizer.get("schedule"),
        "weight decay": optimizer.get("weight_decay"),
        "classification loss": run.get("loss", {}).get("classification"),
        "precision": run.get("precision"),
        "seed": run.get("seed"),
        "initial weights": start or ("ImageNet weights of the backbone" if run and info.detector.pretrained else None),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _distillation(info: CheckpointInfo) -> str | None:
    """What was distilled; None if the run is unknown."""
    if "distillation" not in info.configuration:
        return None
    if not _distilled(info):
        return "Off: a baseline; its teacher is the plain average (EMA) of the student's weights."
    run = flat(info.configuration)
    weights = {name: run.get(f"distillation.{name}.weight") for name in ("matching", "prediction", "auxiliary")}
    active = [f"{name} (weight {weight:g})" for name, weight in weights.items() if weight and is_number(weight)]
    return f"On, from an EMA teacher: {', '.join(active) or 'all weights are 0'}."


def _stability(info: CheckpointInfo) -> str | None:
    """Normalised instability of the last decoder layer at the last validation."""
    layers = {model: info.metrics.get(model, {}).get("normalised_instability") for model in ("teacher", "student")}
    values = [f"{each[-1]:.3f} ({model})" for model, each in layers.items() if each and each[-1] is not None]
    return ", ".join(values) or None


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
