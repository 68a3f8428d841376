import pytest

from oddetr.reporting.stability import Stability, stability


def judge(*values: float, cosine: bool = False, calmed: bool = True) -> Stability:
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


def test_verdict_says_what_changed_since_when_and_what_to_do() -> None:
    unstable = judge(0.4, 0.2, 0.1, 0.3, 0.35, 0.4)
    assert unstable.since == 8
    assert "From epoch 8 on" in unstable.seen
    assert "0.10, epoch 6" in unstable.seen
    assert "learning-rate" in unstable.advice
    assert "bout 8 % of the matching" in judge(0.4, 0.3, 0.2, 0.12, 0.1, 0.08).seen
    assert "--epochs" in judge(0.8, 0.7, 0.6, 0.5, 0.4, 0.3).advice


@pytest.mark.parametrize(
    ("values", "option"),
    [((0.4, 0.1, 0.3, 0.35), "--optimizer.drop-at"), ((0.3, 0.31, 0.3, 0.3), "--optimizer.schedule")],
)
def test_advice_names_only_what_the_run_does_not_have(values: tuple[float, ...], option: str) -> None:
    assert option in judge(*values).advice
    assert option not in judge(*values, cosine=True).advice
    assert "OD-DETR" in judge(*values, calmed=False).advice
    assert "OD-DETR" not in judge(*values).advice
