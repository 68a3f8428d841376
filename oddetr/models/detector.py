"""A detector: four steps, composed of parts."""

from collections.abc import Mapping
from pathlib import Path

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
        decoder: Memory, groups of Queries by name -> Predictions by name.
        denoising: GroundTruth -> AssignedQueries, a group that the detector is trained with besides; None: it is not.
        top_k: how many detections of an image its post-processing keeps.
    """

    def __init__(
        self,
        backbone: nn.Module,
        pyramid: nn.Module,
        encoder: nn.Module,
        query_source: nn.Module,
        decoder: nn.Module,
        denoising: nn.Module | None = None,
        top_k: int = 100,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.encoder = encoder
        self.query_source = query_source
        self.decoder = decoder
        self.denoising = denoising
        self.top_k = top_k

    @property
    def mean(self) -> tuple[float, ...]:
        """What images are normalised with, RGB in [0, 1]: the backbone's."""
        return self.backbone.mean  # pyright: ignore[reportReturnType]

    @property
    def std(self) -> tuple[float, ...]:
        """Likewise."""
        return self.backbone.std  # pyright: ignore[reportReturnType]

    @property
    def saved(self) -> nn.Module:
        """The module whose weights a checkpoint holds."""
        return self

    def describe(self, folder: Path) -> None:
        """Writes what others than us want to know of a checkpoint in `folder`: nothing."""

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

    def decode(self, memory: Memory, groups: Mapping[str, Queries]) -> dict[str, Predictions]:
        """Predictions of each decoder layer for each group of queries; groups are blind to one another."""
        return self.decoder(memory, groups)

    def position(
        self, anchors: Float[Tensor, "batch queries point_or_box"], learned: Float[Tensor, "batch queries width"] | None
    ) -> Float[Tensor, "batch queries width"] | None:
        """Position embeddings of queries that have moved to `anchors`; `learned` are those they came with (None: the
        decoder computes them)."""
        return None if learned is None else self.query_source.position(anchors, learned)  # pyright: ignore[reportCallIssue]

    def forward(
        self,
        images: Float[Tensor, "batch 3 image_height image_width"],
        padding_mask: Bool[Tensor, "batch image_height image_width"],
    ) -> Predictions:
        """All three steps, for the detector's own queries."""
        memory = self.encode(images, padding_mask)
        return self.decode(memory, {"own": self.initial_queries(memory).queries})["own"]
