"""A detector: four steps, composed of parts."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from oddetr.structures import InitialQueries, Memory, Predictions, Queries


class Detector(nn.Module):
    """Images -> predictions of every decoder layer, in the steps `encode`, `initial_queries`, `decode`.

    Args:
        backbone: images -> feature maps, finest first.
        pyramid: feature maps -> levels of one width.
        encoder: levels, padding mask -> Memory.
        query_source: Memory -> InitialQueries.
        decoder: Memory, Queries -> Predictions.
    """

    def __init__(
        self, backbone: nn.Module, pyramid: nn.Module, encoder: nn.Module, query_source: nn.Module, decoder: nn.Module
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.encoder = encoder
        self.query_source = query_source
        self.decoder = decoder

    def encode(
        self,
        images: Float[Tensor, "batch 3 image_height image_width"],
        padding_mask: Bool[Tensor, "batch image_height image_width"],
    ) -> Memory:
        """Backbone, pyramid and encoder; `padding_mask` is True on padding."""
        return self.encoder(self.pyramid(self.backbone(images)), padding_mask)

    def initial_queries(self, memory: Memory) -> InitialQueries:
        """The detector's own queries."""
        return self.query_source(memory)

    def decode(self, memory: Memory, queries: Queries) -> Predictions:
        """Predictions of each decoder layer for `queries`."""
        return self.decoder(memory, queries)

    def forward(
        self,
        images: Float[Tensor, "batch 3 image_height image_width"],
        padding_mask: Bool[Tensor, "batch image_height image_width"],
    ) -> Predictions:
        """All three steps."""
        memory = self.encode(images, padding_mask)
        return self.decode(memory, self.initial_queries(memory).queries)
