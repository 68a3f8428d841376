import pytest

from oddetr.data.dataset import ClassTable
from oddetr.prediction.classes import choose_labels, split_words

CLASSES = ClassTable(("person", "traffic light", "7", "=cmd"), (1, 7, 10, 3))


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (" =cmd, traffic light ,person,", [0, 1, 3]),
        ("7,1", [0, 2]),  # a class has the name 7, so it is not the id
        (["traffic light", "3"], [1, 3]),
    ],
)
def test_classes_when_given_by_name_or_id_then_are_found(given: str | list[str], labels: list[int]) -> None:
    assert choose_labels(split_words(given), CLASSES) == labels


def test_classes_when_unknown_then_lists_the_nearest_and_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"'Person' \(is it 'person'\?\), 'bus'; there is, .* traffic light \(7\)"):
        choose_labels(["Person", "bus", "7"], CLASSES)
    many = ClassTable(tuple(f"class {number}" for number in range(80)), tuple(range(80)))
    with pytest.raises(ValueError, match=r"No class is named; there is, .* class 29 \(29\) and 50 more\."):
        choose_labels(split_words(" , "), many)
