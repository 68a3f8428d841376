import json
from pathlib import Path
from typing import Any

import pytest

from oddetr.comparison.job import scored
from oddetr.evaluation.coco import Metrics
from tests.comparison.synthetic import made_job, made_result


def test_result_scores_both_weights_of_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, str]] = []

    def evaluate(checkpoint: Path, split: str, weights: str) -> Metrics:
        seen.append((checkpoint, split))
        ap = {"student": 0.2, "teacher": 0.3}[weights]
        return Metrics(ap, *[0.5] * 6, per_class={})

    monkeypatch.setattr("oddetr.prediction.predictor.evaluate", evaluate)
    job = made_job(tmp_path, seed=4)
    job.folder.mkdir(parents=True)
    events: list[dict[str, Any]] = [{"kind": "train", "step": 5}, *made_result().epochs]
    (job.folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    result = scored(job)
    assert seen == [(job.folder / "last", "test")] * 2
    assert {name: scores["AP"] for name, scores in result.scores.items()} == {"student": 0.2, "teacher": 0.3}
    assert (result.arm, result.seed, result.split) == ("qfl", 4, "test")
    assert result.epochs == made_result().epochs
    assert "runs at a time: 1, threads of each: 1; Python 3." in result.machine
