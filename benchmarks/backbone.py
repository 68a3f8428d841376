"""Our backbone against timm's own model on the CPU: time of a forward, and of a forward and backward pass.

python benchmarks/backbone.py --backbone tf_efficientnet_lite0 --image-size 128 --batch 8

The forms take turns, so that a noisy machine is noisy for both. Both have frozen batch norms and images in
channels-last memory, and learn from stride 4 on.
"""

import argparse
import time
from statistics import median

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    size = arguments.image_size
    images = torch.randn(arguments.batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    ours = Backbone(arguments.backbone, frozen=True)
    forms = {"ours": ours, "timm": timms(ours)}
    for mine, theirs in zip(ours(images), forms["timm"](images), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(arguments.rounds + 3):
        for name, form in forms.items():
            for passes in ("forward", "forward + backward"):
                begin = time.perf_counter()
                with torch.set_grad_enabled(passes != "forward"):
                    maps: list[Tensor] = form(images)
                    if passes != "forward":
                        sum((each * each).sum() for each in maps).backward()
                if turn >= 3:
                    times.setdefault((name, passes), []).append(1e3 * (time.perf_counter() - begin))
    cost = {key: median(values) for key, values in times.items()}
    print(f"{arguments.backbone}, {arguments.batch} images of {size} px, {arguments.threads} thread(s)")
    for passes in ("forward", "forward + backward"):
        mine, theirs = cost["ours", passes], cost["timm", passes]
        print(f"  {passes:<20}ours {mine:7.1f} ms   timm {theirs:7.1f} ms   ratio {theirs / mine:5.2f}")


if __name__ == "__main__":
    main()
