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
def test_verdict_on_a_curve(values: tuple[float, ...], kind: str) -> None:
    assert judge(*values).kind == kind


def test_verdict_names_the_epoch_from_which_it_is_unstable() -> None:
    verdict = judge(0.4, 0.2, 0.1, 0.3, 0.35, 0.4)
    assert verdict.since == 8
    assert "From epoch 8 on" in verdict.seen
    assert "0.10, epoch 6" in verdict.seen
    assert "learning-rate" in verdict.advice


@pytest.mark.parametrize("values", [(0.4, 0.1, 0.3, 0.35), (0.3, 0.31, 0.3, 0.3)])
def test_unstable_baseline_is_advised_od_detr(values: tuple[float, ...]) -> None:
    assert "OD-DETR" in judge(*values, calmed=False).advice
    assert "OD-DETR" not in judge(*values).advice


@pytest.mark.parametrize("values", [(0.4, 0.1, 0.3, 0.35), (0.3, 0.31, 0.3, 0.3)])
def test_cosine_schedule_is_not_advised_a_drop(values: tuple[float, ...]) -> None:
    assert "--optimizer.schedule" in judge(*values).advice or "--optimizer.drop-at" in judge(*values).advice
    for unwanted in ("--optimizer.schedule", "--optimizer.drop-at"):
        assert unwanted not in judge(*values, cosine=True).advice


def test_verdict_says_how_much_changed_and_what_to_do() -> None:
    assert "bout 8 % of the matching" in judge(0.4, 0.3, 0.2, 0.12, 0.1, 0.08).seen
    assert "--epochs" in judge(0.8, 0.7, 0.6, 0.5, 0.4, 0.3).advice
