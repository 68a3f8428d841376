"""A detector: three steps from images to predictions."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

from torch import nn

from oddetr.models.gradient_checkpointing import checkpointed_parts, recompute
from oddetr.models.heads import PredictionHead
from oddetr.models.queries import QuerySource
from oddetr.structures import Anchors, Embeddings, Images, InitialQueries, Memory, PaddingMask, Predictions, Queries

Frozen = Literal["nothing", "backbone", "encoder"]
"""What `Detector.freeze` takes."""


class Detector(nn.Module):
    """Images -> predictions of every decoder layer, in the steps `encode`, `initial_queries`, `decode`.

    Base class of `ComposedDetector` (our presets) and of the adapters in `models.transformers`.

    Attributes:
        backbone: the part with ImageNet weights, which learns at a rate of its own.
        query_source: makes the initial queries; None where it cannot be copied for further groups.
        denoising: GroundTruth -> AssignedQueries, a group for training only; None: there is none.
        top_k: detections of an image that post-processing keeps.
        frozen: the parts that `freeze` keeps as they are.
        knows_padding: whether the model itself reads a padding mask.
        sampling_layers: names of the layers that compute sampling locations and reference points; their rate is lower.
    """

    backbone: nn.Module
    query_source: QuerySource | None
    denoising: nn.Module | None
    top_k: int
    frozen: tuple[nn.Module | nn.Parameter, ...] = ()
    knows_padding = True
    sampling_layers = ("sampling_offsets", "reference_points")

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean with which images are normalised, RGB in [0, 1]."""
        return self.backbone.mean  # pyright: ignore[reportReturnType]

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation with which images are normalised."""
        return self.backbone.std  # pyright: ignore[reportReturnType]

    @property
    def encoding(self) -> tuple[nn.Module | nn.Parameter, ...]:
        """The parts that `encode` consists of, the backbone among them."""
        raise NotImplementedError

    def freeze(self, parts: Frozen) -> None:
        """Keep parts as they are, without gradient and in evaluation mode: the backbone, or with the encoder all of
        `encode`, so that no gradient is computed there."""
        if parts != "nothing":
            self.frozen = (self.backbone,) if parts == "backbone" else self.encoding
        for part in self.frozen:
            part.requires_grad_(False)
        self.train(self.training)

    def checkpoint_gradients(self) -> None:
        """Compute the inside of the parts named by `checkpointed_parts` again in the backward pass, not keep it."""
        for part in dict.fromkeys(checkpointed_parts(self)):  # heads may be in two lists
            recompute(part)

    def train(self, mode: bool = True) -> "Detector":
        """Set the mode of all but the frozen parts."""
        super().train(mode)
        for part in self.frozen:
            if isinstance(part, nn.Module):
                part.eval()
        return self

    @property
    def saved(self) -> nn.Module:
        """The module whose weights a checkpoint holds."""
        return self

    def describe(self, folder: Path) -> None:
        """Writes the files that other programs need beside the weights into `folder`: none."""

    def class_rows(self) -> dict[str, tuple[int, ...]]:
        """Tensors of the state dict with one row per class -> their rows that belong to no class."""
        raise NotImplementedError

    def exporting(self) -> AbstractContextManager[None]:
        """The context in which the detector can be traced for ONNX."""
        return nullcontext()

    def encode(self, images: Images, padding_mask: PaddingMask) -> Memory:
        """Backbone, pyramid and encoder."""
        raise NotImplementedError

    def initial_queries(self, memory: Memory) -> InitialQueries:
        """The detector's own queries."""
        raise NotImplementedError

    def decode(self, memory: Memory, groups: Mapping[str, Queries]) -> dict[str, Predictions]:
        """Predictions of each decoder layer for each group of queries; groups do not attend to one another."""
        raise NotImplementedError

    def position(self, anchors: Anchors, learned: Embeddings | None) -> Embeddings | None:
        """Position embeddings of queries that have moved to `anchors`.

        Args:
            learned: the embeddings that the queries came with; None where the decoder computes them.
        """
        raise NotImplementedError

    def forward(self, images: Images, padding_mask: PaddingMask) -> Predictions:
        """All three steps, for the detector's own queries."""
        memory = self.encode(images, padding_mask)
        return self.decode(memory, {"own": self.initial_queries(memory).queries})["own"]


class ComposedDetector(Detector):
    """A detector composed of our own parts.

    Args:
        backbone: images -> feature maps, finest first.
        pyramid: feature maps -> levels of one width.
        encoder: levels, padding mask -> Memory.
        query_source: Memory -> InitialQueries.
        decoder: Memory, groups of Queries by name -> Predictions by name.
        denoising, top_k: see `Detector`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        pyramid: nn.Module,
        encoder: nn.Module,
        query_source: QuerySource,
        decoder: nn.Module,
        denoising: nn.Module | None = None,
        top_k: int = 100,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.encoder = encoder
        # `Detector` may have no query source, and this one always has.
        self.query_source: QuerySource = query_source  # pyright: ignore[reportIncompatibleVariableOverride]
        self.decoder = decoder
        self.denoising = denoising
        self.top_k = top_k

    @property
    def encoding(self) -> tuple[nn.Module | nn.Parameter, ...]:
        return self.backbone, self.pyramid, self.encoder

    def class_rows(self) -> dict[str, tuple[int, ...]]:
        """The class outputs of all heads, and the label embedding of denoising, whose last row means "no class"."""
        rows: dict[str, tuple[int, ...]] = {}
        for name, module in self.named_modules():
            if isinstance(module, PredictionHead):
                proposes = name.startswith("query_source.") and self.query_source.class_agnostic
                rows |= {f"{name}.classes.{kind}": (0,) if proposes else () for kind in ("weight", "bias")}
        return rows | ({"denoising.labels.weight": (-1,)} if self.denoising else {})

    def encode(self, images: Images, padding_mask: PaddingMask) -> Memory:
        return self.encoder(self.pyramid(self.backbone(images)), padding_mask)

    def initial_queries(self, memory: Memory) -> InitialQueries:
        return self.query_source(memory)

    def decode(self, memory: Memory, groups: Mapping[str, Queries]) -> dict[str, Predictions]:
        return self.decoder(memory, groups)

    def position(self, anchors: Anchors, learned: Embeddings | None) -> Embeddings | None:
        """The query source embeds positions that the decoder does not."""
        return None if learned is None else self.query_source.position(anchors, learned)
