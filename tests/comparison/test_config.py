from pathlib import Path
from typing import Any

import pytest
import yaml

from oddetr.comparison.arms import STANDARD, label_of
from oddetr.comparison.config import ComparisonConfig, read_config

COMPARISONS = Path(__file__).parents[2] / "docs" / "comparisons"


def test_standard_arms_differ_as_their_names_say() -> None:
    config = ComparisonConfig()
    runs = {arm: config.train_config(arm, 1) for arm in config.arms}
    assert list(runs) == [*STANDARD]
    assert config.reference_arm == "qfl"
    assert runs["focal"].loss.classification == "focal"
    assert all(run.loss.classification == "quality_focal" for arm, run in runs.items() if arm != "focal")
    assert {arm for arm, run in runs.items() if not run.distillation.enabled} == {"focal", "qfl"}
    weights = {
        "qfl_matching": [(1, 0, 0)] * 2,
        "qfl_prediction": [(0, 0.3, 0)] * 2,
        "qfl_auxiliary": [(0, 0, 1)] * 2,
        "oddetr_constant": [(1, 0.3, 1)] * 2,
        "oddetr_own_memory": [(1, 0.3, 1)] * 2,
        "oddetr": [(1, 0.3, 1)] * 2,
        "oddetr_fading": [pytest.approx((1, 0.15, 0.5)), (1, 0, 0)],
    }
    for arm, expected in weights.items():
        assert [runs[arm].distillation.weights(part) for part in (0.3, 0.9)] == expected
    rivals = {arm: run.distillation.auxiliary.rivals for arm, run in runs.items() if run.distillation.enabled}
    assert {arm: number for arm, number in rivals.items() if number} == {"oddetr": 3}
    reads = {arm: run.distillation.memory for arm, run in runs.items() if run.distillation.enabled}
    assert {arm for arm, memory in reads.items() if memory == "teacher"} == {"oddetr_own_memory"}
    assert label_of("oddetr_fading") == "OD-DETR, fading weights"
    assert label_of("mine") == "mine"


def test_arms_differ_only_in_what_they_change() -> None:
    changes = {"optimizer": {"clip": 0.5}, "epochs": 3}
    base = {"batch_size": 4, "optimizer": {"learning_rate": 1e-3}}
    config = ComparisonConfig(base=base, arms={"a": {}, "b": changes})
    plain, changed = (config.train_config(arm, 2).to_json() for arm in ("a", "b"))
    assert {name for name in plain if plain[name] != changed[name]} == {"out", "optimizer", "epochs"}
    assert plain["seed"] == changed["seed"] == 2
    assert plain["resume"]
    assert changed["optimizer"] == plain["optimizer"] | {"clip": 0.5}
    assert changed["optimizer"]["learning_rate"] == 1e-3
    assert changed["out"] == "runs/comparison/b/seed_2"


def test_relative_data_folder_is_made_absolute(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for given, expected in ((Path("cells"), str(tmp_path / "cells")), ("digits", "digits")):
        assert ComparisonConfig(base={"data": given}, arms={"a": {}}).train_config("a", 0).data == expected


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            {"OD-DETR": {}, "oddetr_constant": None},
            "base.distillation.prediction.weight is 0.7, but arm 'oddetr_constant' sets distillation.prediction.weight "
            "to 0.3. Move it from base into an arm with `like: oddetr_constant`.",
        ),
        ({"mine": {"like": "qfl_matching"}}, "arm 'mine' sets distillation.prediction.weight to 0.0. .* `like: qfl_m"),
    ],
)
def test_standard_arm_that_overrides_the_base_is_refused(arms: dict, message: str) -> None:
    for base in ({"distillation.prediction.weight": 0.7}, {"distillation": {"prediction": {"weight": 0.7}}}):
        with pytest.raises(ValueError, match=message):
            ComparisonConfig(base=base, arms=arms)


def test_like_starts_from_a_standard_arm_and_overrides_the_base() -> None:
    base = {"distillation": {"prediction": {"weight": 0.3}, "horizon": 9.0}, "loss": {"giou": 1.0}}
    own = {"like": "oddetr_fading", "distillation": {"matching": {"weight": 0.5}, "prediction": {"weight": 0.9}}}
    config = ComparisonConfig(base=base, arms={"oddetr_constant": None, "mine": own})
    assert config.reference_arm == "oddetr_constant"
    assert config.train_config("oddetr_constant", 0).distillation.horizon == 9.0
    distillation = config.train_config("mine", 0).distillation
    assert distillation.weights(0.0) == (0.5, 0.9, 1)
    assert distillation.prediction.fade_until == 0.6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"learning_rat": 1.0}}, "arm 'mine': .*learning_rat"),
        ({"optimizer": {"clip": -1.0}}, "arm 'mine': optimizer.clip is -1.0"),
        ({"epochs": "many"}, "arm 'mine': .*epochs.*many"),
        ({"epochs": 0}, "arm 'mine': epochs is 0"),
        ({"batch_size": 3}, "arm 'mine' changes batch_size. Arms may change only epochs, optimizer, loss"),
        (
            {"distillation": {"auxiliary": {"apart": True}}},
            "arm 'mine': .*auxiliary.apart is True, which only oddetr 0",
        ),
        ({"like": "qlf"}, "arm 'mine': there is no standard arm 'qlf'; there are focal, qfl"),
        (None, "arm 'mine': there is no standard arm 'mine'"),
    ],
)
def test_arm_that_cannot_be_trained_is_named_with_the_field(changes: dict | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ComparisonConfig(arms={"qfl": None, "mine": changes})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": ()}, "seeds are"),
        ({"seeds": (1, 1)}, "none twice"),
        ({"seeds": (-1,)}, "from 0 on"),
        ({"jobs": -1}, "jobs is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"arms": {}}, "arms is empty"),
        ({"reference": "best"}, "one of the arms: focal, qfl"),
        ({"base": {"seed": 3}}, "base.seed is set by the comparison; use seeds"),
        ({"base": {"out": "x"}}, "base.out is set by the comparison"),
        ({"base": {"epoch": 3}}, "base: .*epoch"),
        ({"arms": {"../up": {}}}, "arm '../up': a name consists of letters"),
        ({"arms": {"qfl": {"epochs": 3}}}, r"my_qfl: \{like: qfl, ...\}"),
    ],
)
def test_invalid_field_is_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ComparisonConfig(**fields)


def test_file_accepts_numbers_in_any_notation(tmp_path: Path) -> None:
    file = tmp_path / "digits.yaml"
    file.write_text(
        "base:\n  epochs: 3\n  optimizer: {learning_rate: 4e-4}\n  detector: {dropout: 2e-1}\n"
        "arms:\n  qfl:\n  mine: {optimizer: {learning_rate: 1e-3}}\nseeds: [0, 4]\nreference: qfl\n"
    )
    config = read_config(file)
    assert config.seeds == (0, 4)
    assert config.out == Path("runs/digits")
    assert config.train_config("qfl", 0).optimizer.learning_rate == 4e-4
    assert config.train_config("mine", 0).optimizer.learning_rate == 1e-3
    assert config.train_config("qfl", 0).detector_config().dropout == 0.2
    assert not config.train_config("qfl", 0).distillation.enabled


def test_written_file_is_the_same_comparison(tmp_path: Path) -> None:
    config = ComparisonConfig(
        base={"data": Path("x")}, arms={"qfl": None, "mine": {}}, seeds=(3, 1), out=Path("there"), jobs=2, split="val"
    )
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(config.to_json()))
    again = read_config(file)
    assert again.to_json() == config.to_json()
    assert again.train_config("qfl", 3) == config.train_config("qfl", 3)


@pytest.mark.parametrize("name", ["proof_refine", "screening_choices", "screening_two_stage"])
def test_published_comparison_is_read_or_names_the_version_that_ran_it(name: str) -> None:
    file = COMPARISONS / name / "comparison.yaml"
    if file.read_text().startswith("# Run with oddetr 0.1"):
        with pytest.raises(ValueError, match=r"which only oddetr 0\.1 can do"):
            read_config(file)
    else:
        assert read_config(file).reference_arm == "qfl"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sedes: [0]", "sedes"),
        ("jobs: two", "jobs.*two"),
        ("seeds: 3", "seeds"),
        ("arms: [qfl]", "arms"),
        ("base: {epoch: 3}", "base: .*epoch"),
        ("base: [", "c.yaml: "),
        ("", "c.yaml: there are no fields in it"),
    ],
)
def test_invalid_file_is_named_with_the_field(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    with pytest.raises(FileNotFoundError, match=r"There is no file .*c\.yaml"):
        read_config(file)
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_config(file)
    assert str(error.value).startswith(str(file))
