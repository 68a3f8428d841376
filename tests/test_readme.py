"""The README's Python runs as it stands there, but for sizes."""

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def block(about: str) -> str:
    """The one Python block that contains `about`."""
    (found,) = (text for text in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if about in text)
    return found


def test_verbs_when_called_as_the_readme_does_then_train_score_and_load(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cells").symlink_to(scenes)
    program = block("oddetr.train")
    for ours, tests in (("epochs=50", "epochs=1"), ("image_size=240", "image_size=64, workers=0")):
        assert ours in program
        program = program.replace(ours, tests)
    names: dict[str, Any] = {}
    exec(program, names)
    assert names["metrics"].ap >= 0
    assert len(names["predictor"].classes.names) == 10


def test_step_when_written_as_the_readme_does_then_student_and_teacher_move(scenes: Path) -> None:
    from oddetr.data.batches import EpochSampler, TransformedDataset, make_loader
    from oddetr.data.sources import open_sources
    from oddetr.data.transforms import EvalTransform

    source = open_sources(str(scenes))["train"]
    images = TransformedDataset(source, EvalTransform(64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    names: dict[str, Any] = {"loader": make_loader(images, EpochSampler(len(source)), 4, 0)}
    program = block("DistillationTask(")
    small = 'deformable_detr_r50(variant="refine", backbone="test_efficientnet")'
    assert 'deformable_detr_r50(variant="refine")' in program
    exec(program.replace('deformable_detr_r50(variant="refine")', small), names)
    assert names["task"].teacher.steps == 2
    for model in (names["detector"], names["task"].teacher.detector):
        assert not model.decoder.heads[0].boxes.layers[-1].weight.eq(0).all(), (
            "official heads begin at 0: nothing was learned"
        )
