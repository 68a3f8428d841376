import pytest

from oddetr.reporting.stability import stability


def judge(*values: float, cosine: bool = False, calmed: bool = True):
    return stability([2 * (number + 1) for number in range(len(values))], values, cosine, calmed)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((), "unknown"),
        ((0.4, 0.3), "unknown"),
        ((0.4, 0.3, 0.2, 0.12, 0.1, 0.08), "stable"),
        ((0.1, 0.11, 0.1, 0.12, 0.1, 0.11), "stable"),
        ((0.8, 0.7, 0.6, 0.5, 0.4, 0.3), "moving"),
        ((0.3, 0.31, 0.3, 0.29, 0.3, 0.31), "moving"),
        ((0.4, 0.2, 0.1, 0.3, 0.35, 0.4), "unstable"),
        ((0.3, 0.1, 0.3, 0.1, 0.3, 0.1), "moving"),
        ((0.01, 0.005, 0.06, 0.07, 0.06), "stable"),
        ((0.4, 0.1, 0.12, 0.3, 0.35, 0.4), "unstable"),
        ((0.3, 0.1, 0.1, 0.1, 0.1, 0.9), "moving"),
    ],
)
def test_stability_when_a_curve_is_judged_then_it_is_of_this_kind(values: tuple[float, ...], kind: str) -> None:
    assert judge(*values).kind == kind


def test_stability_when_it_rises_to_the_end_then_says_from_which_epoch_on() -> None:
    verdict = judge(0.4, 0.2, 0.1, 0.3, 0.35, 0.4)

    assert verdict.since == 8
    assert "From epoch 8 on" in verdict.seen
    assert "0.10, epoch 6" in verdict.seen
    assert "learning-rate" in verdict.advice


def test_stability_when_it_is_calming_down_then_advises_more_epochs() -> None:
    assert "--epochs" in judge(0.8, 0.7, 0.6, 0.5, 0.4, 0.3).advice


@pytest.mark.parametrize("values", [(0.4, 0.1, 0.3, 0.35), (0.3, 0.31, 0.3, 0.3)])
def test_stability_when_the_baseline_is_not_calm_then_od_detr_is_advised(values: tuple[float, ...]) -> None:
    assert "OD-DETR" in judge(*values, calmed=False).advice
    assert "OD-DETR" not in judge(*values).advice


@pytest.mark.parametrize("values", [(0.4, 0.1, 0.3, 0.35), (0.3, 0.31, 0.3, 0.3)])
def test_stability_when_the_schedule_is_cosine_then_neither_it_nor_a_drop_is_advised(values: tuple[float, ...]) -> None:
    assert "--optimizer.schedule" in judge(*values).advice or "--optimizer.drop-at" in judge(*values).advice
    for unwanted in ("--optimizer.schedule", "--optimizer.drop-at"):
        assert unwanted not in judge(*values, cosine=True).advice


def test_stability_when_told_then_says_how_many_objects_changed() -> None:
    assert "bout 8 % of the matching" in judge(0.4, 0.3, 0.2, 0.12, 0.1, 0.08).seen
