"""State dicts as other training code writes them: where they lie in a file, and whose they are."""

import re
from collections.abc import Generator, Iterable, Mapping
from typing import Any, cast

from torch import Tensor

STATES = (
    *("ema_state_dict", "ema_model", "model_ema", "state_dict_ema", "params_ema", "ema"),
    *("model", "state_dict", "model_state_dict", "module", "params"),
)
"""Where a file may have its state dict, also one inside another; averaged weights (EMA) come first."""
_DEEPEST = 4
_PREFIXES = ("module.", "model.", "_orig_mod.")
"""Of DistributedDataParallel, Lightning and `torch.compile`."""
_ANOTHER = "It cannot be converted; train a detector of your own: oddetr train --data DIR."
_SAME = "It cannot be converted; start from transformers' version of it: --model hf:{}."
_THEIR_FOLDER = "Give its folder, with config.json: DeformableDetr to convert, others to `train --model hf:FOLDER`."
_LOOKS = (
    (
        r"(model\.)?((en|de)coder_input_proj|conv_encoder|backbone\.(conv_encoder|model))\.|model\.(en|de)coder\.",
        "a detector of transformers",
        _THEIR_FOLDER,
    ),
    (r"(.*\.)?(pyramid\.projections|decoder\.heads)\.", "a detector of this package", "Give its folder to --init."),
    (r"decoder\.(decoder\.lqe_layers|pre_bbox_head)\.", "D-FINE", _SAME.format("ustc-community/dfine-xlarge-coco")),
    (r"decoder\.decoder\..*\.num_points_scale$", "RT-DETR v2", _SAME.format("PekingU/rtdetr_v2_r18vd")),
    (r"decoder\.dec_score_head\.|backbone\.res_layers\.", "RT-DETR", _SAME.format("PekingU/rtdetr_r50vd")),
    (r"backbone\.0\.projector\.|transformer\.enc_out_class_embed\.0\.", "RF-DETR or LW-DETR", _ANOTHER),
    (r"\d+\.(conv|cv\d|dfl|m)\.", "YOLO", _ANOTHER),
    (r"(rpn|roi_heads|backbone\.bottom_up)\.", "Faster R-CNN", _ANOTHER),
    (r"bbox_head\.", "a detector of MMDetection", _ANOTHER),
    (r"transformer\.level_embeds$", "a detector of detrex", _ANOTHER),
    (r"class_embed\.weight$", "DETR", _ANOTHER),
    (r"layer1\.0\.conv1\.weight$", "a backbone alone", "Give it to --backbone-weights of oddetr train."),
)
"""Keys of other detectors, the first that one has counts; their names; what to do."""


def find_state(content: Any) -> dict[str, Tensor] | None:
    """The state dict in what a file holds, by itself or under the names of `STATES`; None where there is none.

    Of several the first one with a matrix counts: some keep the numbers of their average where others keep its weights.
    """
    found = list(_states(content))
    return next((state for state in found if any(value.ndim > 1 for value in state.values())), next(iter(found), None))


def _states(content: Any, deep: int = 0) -> Generator[dict[str, Tensor]]:
    if not isinstance(content, dict) or deep > _DEEPEST:
        return
    values = cast(dict[Any, Any], content)
    for name in STATES:
        yield from _states(values.get(name), deep + 1)
    if values and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in values.items()):
        yield cast(dict[str, Tensor], values)


def without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without what wrappers put before all of its names, one or several of them."""
    names = list(state)
    while found := next((each for each in _PREFIXES if all(name.startswith(each) for name in names)), None):
        names = [name.removeprefix(found) for name in names]
    return dict(zip((name.removeprefix("module.") for name in names), state.values(), strict=True))


def resemblance(keys: Iterable[str]) -> str:
    """One or two sentences on whose state dict has such keys, and what to do; empty where that is not known."""
    names = list(keys)
    for pattern, name, cure in _LOOKS:
        if any(re.match(pattern, key) for key in names):
            return f"It looks like {name}. {cure}"
    return ""
