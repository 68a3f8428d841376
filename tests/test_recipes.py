"""Every file below recipes/ is one that its command reads."""

from pathlib import Path

import pytest
import yaml

from oddetr.comparison.config import read_config
from oddetr.training.config import TrainConfig

RECIPES = Path(__file__).parents[1] / "recipes"
TRAININGS = sorted([*RECIPES.glob("*.yaml"), *RECIPES.glob("coco/*.yaml")])


@pytest.mark.parametrize("file", TRAININGS, ids=lambda file: file.stem)
def test_recipe_when_of_a_training_then_is_one(file: Path) -> None:
    config = TrainConfig.from_plain(yaml.safe_load(file.read_text()))
    if file.parent.name == "coco":
        assert config.epochs in (12, 24)
        assert config.distillation.enabled is file.stem.endswith("_oddetr")
        assert str(file.relative_to(RECIPES.parent)) in file.read_text()
        last = {12: 11, 24: 20}[config.epochs]
        factors = [config.optimizer.factor(epoch * 100 + 50, config.epochs * 100) for epoch in (last - 1, last)]
        assert factors == pytest.approx([1.0, 0.1])
        assert config.detector_config().num_queries == (900 if file.stem.startswith("dino") else 300)


@pytest.mark.parametrize("file", sorted(RECIPES.glob("compare/*.yaml")), ids=lambda file: file.stem)
def test_recipe_when_of_a_comparison_then_is_one(file: Path) -> None:
    config = read_config(file)
    assert config.reference_arm in config.arms
