"""Further groups of learned queries that only training has: one-to-one (Group DETR) and one-to-many (H-DETR).

Their queries are the task's, not the detector's: what is saved and evaluated is the detector without them.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor, nn

from oddetr.matching import hungarian
from oddetr.models.detector import Detector
from oddetr.models.queries import LearnedAnchors, LearnedQueries
from oddetr.structures import GroundTruth, Memory, Queries

ONE_TO_MANY = "one_to_many"
"""The name of that group."""


@dataclass(frozen=True)
class GroupsConfig:
    """Which further groups there are.

    Attributes:
        one_to_one: how many groups like the detector's own, matched each for itself; the loss is the mean over them and
            the own group (Group DETR, arXiv 2207.13085: 10 further groups).
        one_to_many: queries of a group in which `repeats` queries find each object (H-DETR, arXiv 2207.13080: 1,500).
        repeats: K of H-DETR.

    Raises:
        ValueError: a value that is out of range.
    """

    one_to_one: int = 0
    one_to_many: int = 0
    repeats: int = 6

    def __post_init__(self) -> None:
        for name, least in (("one_to_one", 0), ("one_to_many", 0), ("repeats", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"groups.{name} is {getattr(self, name)}; it must be at least {least}.")

    @property
    def share(self) -> float:
        """The weight of each one-to-one group, the detector's own included."""
        return 1 / (1 + self.one_to_one)


class ExtraGroups(nn.Module):
    """The queries of further groups, of the kind of the detector's own.

    Args:
        detector: whose decoder will decode them.
        config: at least one group.

    Raises:
        ValueError: the detector chooses its queries from the encoder instead of learning them.
    """

    def __init__(self, detector: Detector, config: GroupsConfig) -> None:
        super().__init__()
        source = detector.query_source
        if not isinstance(source, LearnedQueries | LearnedAnchors):
            raise ValueError(
                "Further groups are of learned queries, and this detector chooses its queries from the encoder. "
                "Use a preset with learned queries, such as deformable_detr_refine_tiny or dab_deformable_detr_tiny."
            )
        sizes = {f"one_to_one_{index}": source.num_queries for index in range(config.one_to_one)}
        if config.one_to_many:
            sizes[ONE_TO_MANY] = config.one_to_many
        self.sources = nn.ModuleDict({name: type(source)(size, source.width) for name, size in sizes.items()})

    def forward(self, memory: Memory) -> dict[str, Queries]:
        """The groups by name."""
        return {name: source(memory).queries for name, source in self.sources.items()}


def one_to_many_assignment(
    cost: Float[Tensor, "layers batch queries objects"], truth: GroundTruth, repeats: int, bad: set[int] | None = None
) -> Int64[Tensor, "layers batch queries"]:
    """The cheapest assignment in which each object has `repeats` queries, or as many as there are; `bad` as `hungarian`
    takes it.

    Three queries, two repeats of one object that costs them 3, 1, 2: the second and the third have it.
    """
    counts = tuple(repeats * count for count in truth.counts)
    (assignment,) = hungarian(cost.repeat_interleave(repeats, dim=-1), counts=counts, bad=bad)
    return assignment.div(repeats, rounding_mode="floor")
