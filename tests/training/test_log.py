import pytest

from oddetr.training.log import Speed, flat


def test_speed_when_training_pauses_then_counts_steps_and_waiting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On at 10, steps 13-14 and 15-17, a pause, on at 100, step 101-105: waiting 3 + 1 + 1, working 1 + 2 + 4."""
    times = iter([10.0, 13.0, 14.0, 15.0, 17.0, 100.0, 101.0, 105.0])
    monkeypatch.setattr("oddetr.training.log.time.perf_counter", lambda: next(times))
    speed = Speed()
    speed.go_on()
    for _ in range(2):
        speed.step_begins()
        speed.step_ends(4)
    speed.pause()
    speed.go_on()
    speed.step_begins()
    speed.step_ends(4)
    assert speed.seconds == 12.0
    assert speed.images_per_second == 1.0
    assert speed.waiting_share == pytest.approx(5 / 12)


def test_flat_when_an_epoch_is_validated_then_names_columns_by_model() -> None:
    scores = {"AP": 0.5, "APl": None, "per_class": {"car": 0.4}, "unstable_score": [0.1], "instability": [1.0, 2.0]}
    event = {"kind": "epoch", "epoch": 2, "teacher": scores | {"normalised_instability": [0.3, 0.2]}}
    assert flat(event) == {
        "epoch": 2,
        "teacher AP": 0.5,
        "teacher APl": None,
        "teacher normalised instability": 0.2,
        "teacher AP car": 0.4,
    }


def test_flat_when_it_is_the_first_validation_or_none_then_leaves_instability_empty() -> None:
    scores = {"AP": 0.5, "per_class": {}, "unstable_score": [], "instability": None, "normalised_instability": None}
    assert flat({"kind": "epoch", "student": scores}) == {"student AP": 0.5, "student normalised instability": None}
    assert flat({"kind": "epoch", "epoch": 1}) == {"epoch": 1}
