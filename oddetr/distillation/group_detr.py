"""Query groups and heads of other methods, for training only: one-to-one groups (Group DETR), a one-to-many group
(H-DETR) and one-to-many class heads (MS-DETR).

They belong to the task, not to the detector, which is saved and evaluated without them.
"""

from dataclasses import dataclass
from typing import cast

from torch import nn

from oddetr.distillation.group import Group, Matched, Term
from oddetr.distillation.ms_detr import Mixed, OneToManyHeads
from oddetr.distillation.own_queries import proposal_group
from oddetr.losses.detection import LossConfig
from oddetr.models.decoder import DeformableDecoder
from oddetr.models.detector import Detector
from oddetr.models.queries import QuerySource
from oddetr.structures import GroundTruth, Memory

ONE_TO_MANY = "one_to_many"
"""Name of H-DETR's group."""


@dataclass(frozen=True)
class GroupsConfig:
    """Extra query groups and heads during training.

    Attributes:
        one_to_one: number of extra groups like the detector's own, each with its own matching; the loss is the mean
            over them and the own group (Group DETR, arXiv 2207.13085: 10 extra groups).
        one_to_many: number of queries of a group in which each object has `repeats` queries (H-DETR, arXiv 2207.13080:
            1,500); 0: no such group.
        mixed: train the own queries one-to-many as well, through extra class heads (MS-DETR, arXiv 2401.03989).
        repeats: queries per object in the one-to-many group (K of H-DETR), and at most in `mixed`.

    Raises:
        ValueError: a value is out of range.
    """

    one_to_one: int = 0
    one_to_many: int = 0
    repeats: int = 6
    mixed: bool = False

    def __post_init__(self) -> None:
        for name, least in (("one_to_one", 0), ("one_to_many", 0), ("repeats", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"groups.{name} is {getattr(self, name)}; it must be at least {least}.")

    @property
    def share(self) -> float:
        """The weight of each one-to-one group (the own one included) and of the distillation terms."""
        return 1 / (1 + self.one_to_one)


class ExtraGroups(nn.Module):
    """Query sources of the extra groups, and MS-DETR's class heads.

    Each group has a query source like the detector's own: learned queries or anchors, or the encoder's best proposals
    by a head of its own, as in Group DETR on two-stage detectors.

    Args:
        detector: the detector that will decode the groups.
        config: which groups to make.

    Raises:
        ValueError: the detector is one of transformers, which have no query source to copy.
    """

    def __init__(self, detector: Detector, config: GroupsConfig) -> None:
        super().__init__()
        self.config = config
        names = [f"one_to_one_{index}" for index in range(config.one_to_one)]
        names += [ONE_TO_MANY] if config.one_to_many else []
        if (names or config.mixed) and detector.query_source is None:
            raise ValueError(
                "Further groups of queries (--groups) are not for detectors of transformers. Use one of our presets, "
                "or leave the groups out."
            )
        self.sources = nn.ModuleDict()
        for name in names:
            source = cast(QuerySource, detector.query_source)
            self.sources[name] = source.another(config.one_to_many if name == ONE_TO_MANY else source.num_queries)
        self.heads = OneToManyHeads(cast(DeformableDecoder, detector.decoder), config.repeats) if config.mixed else None

    def own_terms(self, student: Detector, truth: GroundTruth, loss: LossConfig) -> tuple[Term, ...]:
        """Further terms on the detector's own queries: MS-DETR's."""
        if self.heads is None:
            return ()
        norm = cast(DeformableDecoder, student.decoder).norm
        return (Term("mixed_", 1.0, loss, Mixed(truth, self.heads, norm)),)

    def forward(self, memory: Memory, truth: GroundTruth, loss: LossConfig) -> list[Group]:
        """The extra groups, each followed by that of its proposals if it has any."""

        groups: list[Group] = []
        for name, source in self.sources.items():
            many = name == ONE_TO_MANY
            share, repeats = (1.0, self.config.repeats) if many else (self.config.share, 1)
            initial = source(memory)
            matched = Term(f"{name}_", share, loss, Matched(truth, repeats))
            groups.append(Group(name, initial.queries, (matched,)))
            if initial.proposals:
                groups.append(proposal_group(f"{name}_proposal", initial, truth, loss, share, repeats))
        return groups
