"""Our backbone against timm's own model on the CPU: time of a forward, and of a forward and backward pass.

python benchmarks/backbone.py --backbone tf_efficientnet_lite0 --image-size 128 --batch 8

Both have frozen batch norms and images in channels-last memory, and learn from stride 4 on.
"""

from functools import partial

import timing
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from oddetr.models.backbone import Backbone


def timms(ours: Backbone) -> nn.Module:
    """The same weights in timm's own layers."""
    model = timm.create_model(ours.name, features_only=True, out_indices=(-3, -2, -1))
    model = freeze_batch_norm_2d(model)
    model.load_state_dict(ours.body.state_dict())
    learned = {name: parameter.requires_grad for name, parameter in ours.body.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learned[name])
    return model


def forward(model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        model(images)


def forward_and_backward(model: nn.Module, images: Tensor) -> None:
    maps: list[Tensor] = model(images)
    sum((each * each).sum() for each in maps).backward()


def main() -> None:
    parser = timing.parser(__doc__, rounds=15)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    size = arguments.image_size
    images = torch.randn(arguments.batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    ours = Backbone(arguments.backbone, frozen=True)
    theirs = timms(ours)
    for mine, expected in zip(ours(images), theirs(images), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-3)
    what = f"{arguments.backbone}, {arguments.batch} images of {size} px, {arguments.threads} thread(s), "
    rows: list[timing.Row] = []
    for passes, work in (("forward", forward), ("forward and backward", forward_and_backward)):
        forms = {"ours": partial(work, ours, images), "timm": partial(work, theirs, images)}
        times = timing.in_turns(forms, arguments.rounds)
        rows.append(timing.Row(what + passes, times["ours"], "timm", times["timm"]))
    timing.show(rows, arguments.json)


if __name__ == "__main__":
    main()
