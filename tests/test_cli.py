"""The command line as a user types it: words in, exit code and text out."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import oddetr
from oddetr.cli import main
from oddetr.comparison.arms import STANDARD
from oddetr.comparison.config import ComparisonConfig
from oddetr.data.digits import DigitScenes
from oddetr.data.writer import write_coco
from oddetr.models.families.build import PRESETS, DetectorConfig

TINY = [
    *("--detector.backbone", "test_efficientnet", "--detector.pretrained", "false", "--detector.width", "32"),
    *("--detector.encoder-layers", "1", "--detector.decoder-layers", "1", "--detector.num-queries", "12"),
    *("--image-size", "96", "--batch-size", "4", "--workers", "0", "--trainer.accelerator", "cpu"),
]


def test_train_evaluate_and_predict_work_one_after_the_other(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["train", "--data", str(scenes), "--epochs", "1", "--seed", "3", "--out", out, *TINY]) == 0
    assert "epoch 1/1" in capsys.readouterr().out
    assert main(["evaluate", out, "--split", "test", "--json", str(tmp_path / "scores.json")]) == 0
    printed = capsys.readouterr().out
    assert "AP50" in printed
    assert "the teacher's weights, on test" in printed
    assert 0 <= json.loads((tmp_path / "scores.json").read_text())["AP"] <= 1
    pictures = str(tmp_path / "pictures")
    paths = [str(scenes / "test" / "*.png"), str(scenes / "val")]
    assert main(["predict", out, *paths, "--out", pictures, "--weights", "student", "--formats", "pictures,csv"]) == 0
    assert len(list(Path(pictures).glob("*.png"))) == 8
    assert (tmp_path / "pictures" / "detections.csv").exists()


def test_printed_configuration_when_read_again_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--epochs", "7", "--detector.num-queries", "9", "--print-config"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["epochs"] == 7
    file = tmp_path / "config.yaml"
    file.write_text(printed)
    with pytest.raises(SystemExit):
        main(["train", "--config", str(file), "--print-config"])
    again = yaml.safe_load(capsys.readouterr().out)
    assert again == yaml.safe_load(printed)
    assert again["detector"] == {"num_queries": 9}


def test_check_exits_with_0_for_sound_and_1_for_broken_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(DigitScenes("train", 4), tmp_path, "train")
    assert main(["check", str(tmp_path)]) == 0
    next((tmp_path / "train").iterdir()).unlink()
    assert main(["check", str(tmp_path)]) == 1
    assert "1 error" in capsys.readouterr().out


def test_digits_writes_scenes_that_pass_the_check(tmp_path: Path) -> None:
    words = ["digits", "--out", str(tmp_path), "--split", "train", "--count", "5"]
    assert main([*words, "--objects=2,2", "--heights", "[8,12.5]"]) == 0
    assert main(["check", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "annotations" / "instances_train.json").read_text())
    assert len(written["images"]) == 5
    expected = DigitScenes("train", 5, objects=(2, 2), heights=(8.0, 12.5)).annotations()
    assert [each["bbox"][3] for each in written["annotations"]] == (
        expected.boxes[:, 3] - expected.boxes[:, 1]
    ).tolist()


def test_version_and_help_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert oddetr.__version__ in capsys.readouterr().out
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in ("train", "evaluate", "predict", "check"))


def helped(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_of_train_shows_dashes_choices_presets_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    printed = helped("train", capsys)
    assert "  --loss.classification {focal,quality_focal,mal,position_supervised}" in printed
    assert "  --optimizer.learning-rate " in printed
    words = {*re.findall(r"\w+", printed)}
    assert {*PRESETS} <= words
    assert {part.name for part in dataclasses.fields(DetectorConfig)} <= words


def test_help_shows_required_options_and_defaults_and_no_python(capsys: pytest.CaptureFixture[str]) -> None:
    printed = " ".join(helped("predict", capsys).split())
    assert printed.startswith("usage: oddetr predict CHECKPOINT PATH [PATH ...] --out OUT [options] Detects objects")
    assert "CHECKPOINT a run's folder (its best), a checkpoint in it, or hf:user/name on the Hub" in printed
    assert "--batch-size BATCH_SIZE" in printed
    assert "(default: 8)" in printed
    assert "(default: pictures,coco)" in printed
    assert "--out OUT the folder to write to. (required)" in printed
    for word in ("batch_size", "type:", "null", "<class", "+"):
        assert word not in printed


def test_help_of_compare_shows_fields_and_standard_arms(capsys: pytest.CaptureFixture[str]) -> None:
    printed = helped("compare", capsys)
    fields = [line.partition(":")[0].strip() for line in printed.splitlines() if line.startswith("  ") and ": " in line]
    assert {part.name for part in dataclasses.fields(ComparisonConfig)} <= {*", ".join(fields).split(", ")}
    assert all(arm in printed for arm in STANDARD)
    assert printed.count("Train arms with several seeds") == 1


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, "30000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_openmp_threads_spin_briefly_unless_the_user_chose_otherwise(chosen: dict[str, str], expected: str) -> None:
    """OpenMP reads the variable when torch loads it, so it must be there before."""
    program = (
        "import os, sys; from oddetr.cli import main; main(['--version']); "
        "assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    kept = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    call = [sys.executable, "-c", program]
    printed = subprocess.run(call, env=kept | chosen, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == expected


def test_import_loads_nothing_heavy_or_optional() -> None:
    heavy = ("tensorboard", "mlflow", "wandb", "transformers", "triton", "pycocotools", "torch", "lightning", "numba")
    code = f"import sys, oddetr; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_all_there() -> None:
    assert sorted(oddetr._MODULES) == sorted(oddetr.__all__)
    assert {*oddetr.__all__} <= {*dir(oddetr)}
    assert all(callable(getattr(oddetr, name)) for name in oddetr.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        oddetr.nothing  # noqa: B018
