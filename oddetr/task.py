"""One training step, free of any engine: a batch in, a loss with its parts out.

task = DetectionTask(detector)
for batch in loader:
    optimizer.zero_grad()
    task(batch)["loss"].backward()
    optimizer.step()
"""

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from oddetr.losses import LossWeights, detection_loss
from oddetr.matching import MatchingWeights, hungarian, matching_cost
from oddetr.models.detector import Detector
from oddetr.structures import Batch, GroundTruth


class DetectionTask(nn.Module):
    """The baseline: a detector and its loss, decoder layers and (two-stage) proposals."""

    def __init__(
        self,
        detector: Detector,
        loss_weights: LossWeights | None = None,
        matching_weights: MatchingWeights | None = None,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.loss_weights = loss_weights or LossWeights()
        self.matching_weights = matching_weights or MatchingWeights()

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The loss to minimise, `loss`, and for the log its unweighted parts summed over layers.

        Raises:
            NonFiniteCostError: the detector predicts NaN or infinity.
        """
        memory = self.detector.encode(batch.images, batch.padding_mask)
        initial = self.detector.initial_queries(memory)
        predictions = self.detector.decode(memory, initial.queries)
        # Each pair: predictions, and what they should find. Proposals find objects whatever their class.
        supervised = {"": (predictions, batch.truth)}
        if initial.proposals is not None:
            supervised["proposal_"] = (initial.proposals, _without_classes(batch.truth))
        objects = objects_per_process(batch)
        with torch.autocast(batch.images.device.type, enabled=False):
            costs = [matching_cost(found, truth, self.matching_weights) for found, truth in supervised.values()]
            assignments = hungarian(*costs, counts=batch.truth.counts)
            total = torch.zeros((), device=batch.images.device)
            parts: dict[str, Tensor] = {}
            for (name, (found, truth)), assignment in zip(supervised.items(), assignments, strict=True):
                loss = detection_loss(found, truth, assignment, objects)
                total = total + loss.weighted(self.loss_weights)
                for part in ("classes", "l1", "giou"):
                    parts[f"loss_{name}{part}"] = getattr(loss, part).detach().sum()
        return {"loss": total, **parts}


def objects_per_process(batch: Batch) -> Float[Tensor, ""]:
    """What sums are divided by, so that gradients are as if one process held the whole step's images.

    max(objects in all parts of the step on all processes, 1) / processes, since gradients are averaged over processes.
    """
    own = batch.truth.total if batch.step_objects is None else batch.step_objects
    objects = torch.tensor(float(own), device=batch.images.device)
    processes = 1
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(objects)
        processes = distributed.get_world_size()
    return objects.clamp(min=1) / processes


def _without_classes(truth: GroundTruth) -> GroundTruth:
    return GroundTruth(truth.labels.clamp(max=0), truth.boxes, truth.counts)
