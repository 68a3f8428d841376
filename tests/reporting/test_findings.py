import numpy as np

from oddetr.data.digits import DigitScenes
from oddetr.reporting.findings import First


def test_first_images_of_generated_scenes() -> None:
    scenes = DigitScenes("train", length=5)
    first = First(scenes, 2)
    assert len(first) == 2
    assert len(first.annotations()) == 2
    np.testing.assert_array_equal(first.annotations().image_ids, scenes.annotations().image_ids[:2])
    np.testing.assert_array_equal(first.sample(1).image, scenes.sample(1).image)
