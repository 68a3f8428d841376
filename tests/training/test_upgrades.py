"""What oddetr 0.1 recorded, read by this one."""

from typing import Any

import pytest

from oddetr.common.nested import flat, merged
from oddetr.distillation.config import AuxiliaryConfig, DistillationConfig
from oddetr.training.config import TrainConfig
from oddetr.training.upgrades import upgraded
from tests.helpers import ONLY_IN_0_1, as_of_0_1

PLAIN = DistillationConfig(auxiliary=AuxiliaryConfig(rivals=0))
OTHERS: dict[str, Any] = {
    **{"matching.layers": "last", "matching.box_power": 2.0, "matching.boxes": "own", "matching.carry_by": "slot"},
    **{"prediction.confidence_power": 2.0, "prediction.min_confidence": 0.1, "prediction.divide_by": "confidence"},
    **{"auxiliary.apart": True, "auxiliary.pool": "per_layer", "auxiliary.distinct": True, "auxiliary.anchors": "box"},
}


def test_record_when_of_0_1_then_loses_what_is_gone_and_has_no_rivals_nested_or_dotted() -> None:
    """A configuration of transformers, whose names may have dots and be numbers, stays as it is."""
    detector = {"content": {"id2label": {0: "a", 1: "b"}, "model.type": "x"}}
    now = TrainConfig(epochs=3, distillation=PLAIN).to_json() | {"detector": detector}
    old = as_of_0_1(now)
    before = merged(old, {})
    assert upgraded(old) == now
    assert upgraded(flat(old)) == flat(now)
    assert old == before
    assert TrainConfig.from_plain(as_of_0_1(TrainConfig().to_json())).distillation == PLAIN


@pytest.mark.parametrize("name", flat(ONLY_IN_0_1))
def test_record_when_it_sets_what_is_gone_to_another_value_then_is_refused_by_name(name: str) -> None:
    old = flat(as_of_0_1(TrainConfig().to_json())) | {f"distillation.{name}": OTHERS[name]}
    part, _, field = name.partition(".")
    for record in (old, {"distillation": {part: {field: OTHERS[name]}}}):
        with pytest.raises(ValueError, match=rf"^distillation\.{name} is {OTHERS[name]}, which only oddetr 0\.1 can"):
            upgraded(record)


@pytest.mark.parametrize(
    "record",
    [
        TrainConfig().to_json(),
        {"distillation": {"auxiliary": {"candidates": 3}}},
        {"distillation.auxiliary.candidates": 3},
        {"distillation": DistillationConfig(), "epochs": 3},
    ],
    ids=["whole", "nested", "dotted", "made"],
)
def test_configuration_when_of_today_then_stays_as_it_is(record: dict[str, Any]) -> None:
    assert upgraded(record) == record


def test_fields_when_a_record_has_new_ones_beside_what_is_gone_then_these_stay() -> None:
    new = {"matching": {"queries": "teacher"}, "auxiliary": {"rivals": 2}}
    old = merged(new, {"auxiliary": {"distinct": False}})
    assert upgraded({"distillation": old}) == {"distillation": new}
    assert upgraded(flat({"distillation": old})) == flat({"distillation": new})


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ({"tensorboard": True}, ["tensorboard"]),
        ({"tensorboard": False}, []),
        ({"tensorboard": True, "loggers": ["mlflow"]}, ["mlflow"]),
    ],
    ids=str,
)
def test_tensorboard_when_a_record_says_whether_then_is_a_logger(old: dict[str, Any], now: list[str]) -> None:
    assert upgraded(old) == {"loggers": now}
