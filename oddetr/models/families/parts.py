"""The parts that all families share, in the sizes of a configuration."""

from collections.abc import Callable, Sequence

from torch import Tensor

from oddetr.models.decoder import DecoderLayer
from oddetr.models.encoder import DeformableEncoder, FeaturePyramid
from oddetr.models.families.config import DetectorConfig
from oddetr.models.position import sine_position_map


def layer_sizes(config: DetectorConfig) -> tuple[int, int, int, int, int]:
    """The arguments of encoder and decoder layers before dropout."""
    return config.width, config.heads, config.levels, config.points, config.ffn_width


def decoder_layers(config: DetectorConfig) -> list[DecoderLayer]:
    """The decoder's layers."""
    return [DecoderLayer(*layer_sizes(config), config.dropout) for _ in range(config.decoder_layers)]


def pyramid_and_encoder(
    config: DetectorConfig, channels: Sequence[int], position: Callable[[Tensor, int], Tensor] = sine_position_map
) -> tuple[FeaturePyramid, DeformableEncoder]:
    """The pyramid over maps with these `channels`, and the encoder of its levels, which `position` embeds."""
    pyramid = FeaturePyramid(channels, config.width, config.levels)
    return pyramid, DeformableEncoder(*layer_sizes(config), config.encoder_layers, config.dropout, position)
