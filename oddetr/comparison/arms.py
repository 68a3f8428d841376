"""The standard arms, which a comparison trains unless it names others."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StandardArm:
    """A label for tables and figures, and changes to the base configuration."""

    label: str
    changes: dict[str, Any]


_WEIGHTS = {"matching": 1.0, "prediction": 0.3, "auxiliary": 1.0}
"""Fixed here, not taken from `DistillationConfig`: published arms must not change with the defaults."""
_FADE_UNTIL = 0.6


def _baseline(classification: str) -> dict[str, Any]:
    return {"loss": {"classification": classification}, "distillation": {"enabled": False}}


def _distilled(
    *terms: str, fading: Collection[str] = (), memory: str = "student", rivals: int = 0, queries: str = "teacher"
) -> dict[str, Any]:
    """Changes that enable the named distillation terms; the teacher decodes this memory and these queries."""
    parts: dict[str, dict[str, Any]] = {
        name: {"weight": weight if name in terms else 0.0, "fade_until": _FADE_UNTIL if name in fading else None}
        for name, weight in _WEIGHTS.items()
    }
    parts["auxiliary"] |= {"candidates": 2, "rivals": rivals}
    distillation = {"enabled": True, "memory": memory, "queries": queries, **parts}
    return {"loss": {"classification": "quality_focal"}, "distillation": distillation}


STANDARD: dict[str, StandardArm] = {
    "focal": StandardArm("focal baseline", _baseline("focal")),
    "qfl": StandardArm("QFL baseline", _baseline("quality_focal")),
    "qfl_matching": StandardArm("QFL + matching", _distilled("matching")),
    "qfl_prediction": StandardArm("QFL + prediction", _distilled("prediction")),
    "qfl_auxiliary": StandardArm("QFL + auxiliary", _distilled("auxiliary")),
    "oddetr_own_memory": StandardArm("OD-DETR, constant, own memory", _distilled(*_WEIGHTS, memory="teacher")),
    "oddetr_constant": StandardArm("OD-DETR, constant weights", _distilled(*_WEIGHTS)),
    "oddetr": StandardArm("OD-DETR with rivals", _distilled(*_WEIGHTS, rivals=3, queries="shared")),
    "oddetr_fading": StandardArm("OD-DETR, fading weights", _distilled(*_WEIGHTS, fading=("prediction", "auxiliary"))),
}
"""By their names in a comparison's file. All of them, baselines included, keep the EMA teacher."""


def label_of(arm: str) -> str:
    """The label of a standard arm; the name of any other."""

    return STANDARD[arm].label if arm in STANDARD else arm
