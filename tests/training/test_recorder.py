import json
import math
from pathlib import Path

from oddetr.training.recorder import Recorder


def test_recorder_when_a_run_goes_on_then_knows_the_teachers_best_ap_and_the_time_passed(tmp_path: Path) -> None:
    """The last epoch is done again: what it said is forgotten. One epoch was not validated, one has no AP."""
    scores = [(0.1, 0.6), (0.3, 0.2), None, (None, None), (0.9, 0.9)]
    events = [
        {"kind": "epoch", "step": 10 * epoch, "epoch": epoch, "seconds": 9.0 * epoch, "training_seconds": 5.0 * epoch}
        | ({"teacher": {"AP": pair[0]}, "student": {"AP": pair[1]}} if pair else {})
        for epoch, pair in enumerate(scores, start=1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    recorder = Recorder(tmp_path, lambda epoch, scores: None, steps_done=40)
    assert recorder.best == 0.3
    assert recorder.trained == 20.0
    assert math.isnan(recorder.loss)
    assert Recorder(tmp_path, lambda epoch, scores: None, steps_done=0).best == -1.0
