"""What other methods add to a detector in training: further groups of queries, one-to-one (Group DETR) and one-to-many
(H-DETR), and one-to-many class heads (MS-DETR).

They are the task's, not the detector's: what is saved and evaluated is the detector without them.
"""

from dataclasses import dataclass
from typing import cast

from torch import nn

from oddetr.distillation.group import Group, Matched, Term
from oddetr.distillation.mixed import Mixed, OneToManyHeads
from oddetr.distillation.own import proposal_group
from oddetr.losses.detection import LossConfig
from oddetr.models.decoder import DeformableDecoder
from oddetr.models.detector import Detector
from oddetr.models.queries import QuerySource
from oddetr.structures import GroundTruth, Memory

ONE_TO_MANY = "one_to_many"
"""The name of that group."""


@dataclass(frozen=True)
class GroupsConfig:
    """Which further groups there are, or heads.

    Attributes:
        one_to_one: how many groups like the detector's own, matched each for itself; the loss is the mean over them and
            the own group (Group DETR, arXiv 2207.13085: 10 further groups).
        one_to_many: queries of a group in which `repeats` queries find each object (H-DETR, arXiv 2207.13080: 1,500).
        mixed: whether the own queries learn one-to-many, too, by class heads of their own (MS-DETR, arXiv 2401.03989).
        repeats: queries of each object in the one-to-many group, K of H-DETR; at most so many where `mixed`.

    Raises:
        ValueError: a value that is out of range.
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
        """The weight of each one-to-one group, the detector's own included, and of what is distilled beside them."""
        return 1 / (1 + self.one_to_one)


class ExtraGroups(nn.Module):
    """The queries of further groups, and MS-DETR's class heads.

    The queries come from sources like the detector's own: learned queries or anchors, or the encoder's best proposals
    by a head of the group's own, as Group DETR has it on two-stage detectors.

    Args:
        detector: whose decoder will decode them.
        config: which groups there are.

    Raises:
        ValueError: the detector is one of transformers, whose queries have no source that could be made anew.
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
        """What the detector's own queries learn besides: MS-DETR's term."""
        if self.heads is None:
            return ()
        norm = cast(DeformableDecoder, student.decoder).norm
        return (Term("mixed_", 1.0, loss, Mixed(truth, self.heads, norm)),)

    def forward(self, memory: Memory, truth: GroundTruth, loss: LossConfig) -> list[Group]:
        """The groups, and those of their proposals."""
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
