import torch
from torch.nn import functional as F

from oddetr.models.encoder import resize_mask


def test_mask_when_resized_by_indices_then_is_that_of_interpolate() -> None:
    """To the pixel, so that trainings stay the same to the bit; also where the scale is no whole number."""
    for length in (1, 31, 96, 180, 240, 300, 333, 400, 799, 1333):
        for stride in (8, 16, 32, 64):
            size = torch.Size((-(-length // stride), 3))
            rows = torch.arange(length)[None, :, None].expand(2, -1, 7)
            expected = F.interpolate(rows[:, None].float(), size=size)[:, 0].long()
            assert torch.equal(resize_mask(rows, size), expected)
            assert torch.equal(resize_mask(rows.mT, size[::-1]), expected.mT)
