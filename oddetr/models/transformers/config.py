"""A detector of `transformers` by its configuration or its name."""

import importlib.util
import logging
import re
import reprlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from oddetr.common.nested import flat, without_key
from oddetr.common.untrusted import read_normalisation, read_safetensors
from oddetr.models.backbone import require_own
from oddetr.models.transformers.adapters import REAL_TIME, adapt, check_kind
from oddetr.models.transformers.base import IMAGENET, HuggingFaceDetector, is_output
from oddetr.models.transformers.files import find_config, find_file, read_object

MODEL_PATH = "_name_or_path"
"""Where transformers keeps the folder of a model."""
_ELSEWHERE = (
    r"num_labels|backbone_kwargs|use_timm_backbone|use_pretrained_backbone|use_kernels|\w*_implementation\w*"
    "|(torch_)?dtype|fusion_config|transformers_weights|anchor_image_size"
)
"""Fields by which transformers would ask the Hub for something or make more than the detector, and the number of
classes beside their names."""
_LARGEST = {
    "layers|levels|depth|blocks|points|stages|repeats": 100,
    "d_model|dim|hidden|channels|size": 8_192,
    "": 10**6,
}
"""The largest number in a stranger's configuration, by what the field's name contains: beyond, memory would run out."""
_COUNTER = ".num_batches_tracked"
"""A buffer of batch norms, which frozen ones have only in some versions."""
_HEAD = re.compile(r"(class|bbox)_embed\.")
"""Names of heads that transformers before version 5 saved in place of the decoder's."""
_PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation where images are not normalised."""


@dataclass(frozen=True)
class HuggingFaceConfig:
    """What a detector of transformers is made of (a `DetectorSpec`).

    Attributes:
        content: of its config.json.
        mean, std: normalisation of RGB in [0, 1].

    Raises:
        ValueError: of a kind that is not supported, with a backbone from elsewhere, with quantised weights, or larger
            than any detector.
    """

    content: dict[str, Any]
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]

    def __post_init__(self) -> None:
        check_kind(self.family)
        if not isinstance(self.content.get("backbone_config"), dict):
            raise ValueError("there is no backbone_config, without which transformers looks elsewhere for a backbone")
        _check_fields(self.content)

    @property
    def family(self) -> str:
        """Its `model_type`."""
        return str(self.content.get("model_type"))

    @property
    def summary(self) -> str:
        return f"{self.family} of transformers"

    @property
    def num_queries(self) -> int | None:
        """Deformable-DETR's pretrained weights fix the number."""
        return self.content.get("num_queries") if self.family in REAL_TIME else None

    @property
    def class_agnostic(self) -> bool:
        return bool(self.family == "deformable_detr" and self.content.get("two_stage"))

    @property
    def pretrained(self) -> bool:
        """Its weights are the whole model's."""
        return False

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "HuggingFaceConfig":
        """From what `to_plain` gave, also by way of JSON."""
        return cls(values["content"], *read_normalisation(values))

    @classmethod
    def read(cls, name: str) -> "HuggingFaceConfig":
        """From a folder, or by a name on the hub; normalisation as its image processor has it, else its kind's.

        Only config.json and preprocessor_config.json are read, and nothing that they name elsewhere is fetched.

        Raises:
            OSError: there is no such model, or transformers is not installed.
            ValueError: see the class, or it is damaged.
        """
        _need_transformers()
        with _explained(f"The model {name} of transformers cannot be read"):
            content = read_object(find_config(name))
            if "model_type" not in content:
                raise ValueError("its config.json has no model_type: it is not of transformers")
            check_kind(str(content["model_type"]))
            _check_fields(content)
            file = find_file(name, "preprocessor_config.json")
            processor = read_object(file) if file is not None else {}
            return cls(_configuration(content).to_dict(), *_normalisation(processor, str(content["model_type"])))

    def override(self, changes: dict[str, Any]) -> "HuggingFaceConfig":
        """Change fields of its config.json."""
        for name in changes:
            if name not in self.content:
                raise ValueError(f"transformers' {self.family} has no field {name!r}; its config.json lists them.")
        return replace(self, content=self.content | changes)

    def for_classes(self, names: Sequence[str]) -> "HuggingFaceConfig":
        labels = {str(index): name for index, name in enumerate(names)}
        content = self.content | {"id2label": labels, "label2id": {name: int(key) for key, name in labels.items()}}
        return replace(self, content=content)

    def without_paths(self) -> "HuggingFaceConfig":
        """Without the folder that it was read from; class names that look like paths stay."""
        return replace(self, content=without_key(self.content, MODEL_PATH))

    def build(self, num_classes: int) -> HuggingFaceDetector:
        """The detector with random weights, its backbone's too; the configuration names its classes.

        Raises:
            OSError: transformers is not installed; ValueError: it cannot make a model of these values.
        """
        _need_transformers()
        from transformers import AutoModelForObjectDetection

        with _explained(f"transformers cannot make its {self.family}"):
            model = AutoModelForObjectDetection.from_config(_configuration(self.content), trust_remote_code=False)
            detector = adapt(model, self.mean, self.std)
        detector.initialise()
        return detector


@contextmanager
def _explained(what: str) -> Generator[None]:
    """Turn any error but OSError into a ValueError that explains what failed and why."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{what} ({type(error).__name__}: {reason}).") from error


def _need_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise OSError("A detector of transformers needs transformers: pip install transformers.")


def _normalisation(processor: Mapping[str, Any], kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation as an image processor's configuration has them, else as those of this kind."""
    if not processor.get("do_normalize", "image_mean" in processor or kind not in REAL_TIME):
        return _PLAIN
    mean, std = (processor.get(f"image_{name}", usual) for name, usual in zip(("mean", "std"), IMAGENET, strict=True))
    return read_normalisation({"mean": mean, "std": std})


def _check_fields(content: dict[str, Any]) -> None:
    """Raises ValueError for a backbone from elsewhere, quantised weights, and numbers larger than any detector has."""
    if content.get("quantization_config") is not None:
        raise ValueError("its weights are quantised (quantization_config), from which nothing can learn")
    for field, value in flat(content).items():
        if field.rpartition(".")[2] == "backbone" and isinstance(value, str):
            require_own(value)
        most = next(most for words, most in _LARGEST.items() if re.search(words, field.rpartition(".")[2]))
        if max(_numbers(value), default=0) > most:
            raise ValueError(f"{field} is {reprlib.repr(value)}; it is at most {most:,}.")


def _numbers(value: Any) -> list[Any]:
    """All numbers in a value and its nested lists."""
    parts = value if isinstance(value, list) else [value]
    found = [_numbers(part) if isinstance(part, list) else [part] for part in parts]
    return [number for numbers in found for number in numbers if isinstance(number, int | float)]


def _configuration(content: dict[str, Any]) -> Any:
    """transformers' own configuration, made without asking the Hub; raises ValueError for a backbone of the Hub."""
    from transformers import AutoConfig

    local = {name: value for name, value in _local(content).items() if name != "backbone"}
    if not isinstance(content.get("backbone_config"), dict):
        local |= _named_backbone(content)
    return AutoConfig.for_model(**local)


def _named_backbone(content: dict[str, Any]) -> dict[str, Any]:
    """Older Deformable-DETRs name a backbone of timm's, of which transformers makes a backbone_config; of other kinds
    their usual one is taken where none is named."""
    name, older = content.get("backbone"), content["model_type"] == "deformable_detr"
    if older and content.get("use_timm_backbone", True) and not content.get("backbone_kwargs"):
        require_own(name or "resnet50")
        return {"backbone": name}
    if older or name is not None:
        raise ValueError(f"there is no backbone_config, and the backbone {name!r} would be looked for elsewhere")
    return {}


def _local(content: dict[Any, Any]) -> dict[Any, Any]:
    """The same without the fields of `_ELSEWHERE`, however deep."""
    inner = {name: _local(value) if isinstance(value, dict) else value for name, value in content.items()}
    return {name: value for name, value in inner.items() if not re.fullmatch(_ELSEWHERE, str(name))}


def load_pretrained(name: str) -> tuple[HuggingFaceDetector, tuple[str, ...]]:
    """The detector of a folder or of a name on the hub, with its weights, and its classes' names.

    Beside what `HuggingFaceConfig.read` reads, only model.safetensors is.

    Raises:
        OSError: there is no such model, or it has no safetensors.
        ValueError: see `HuggingFaceConfig.read`, or its weights do not fit.
    """
    known = HuggingFaceConfig.read(name)
    try:
        file = find_file(name, "model.safetensors")
        problem = "there is no model.safetensors"
    except OSError as error:
        file, problem = None, " ".join(str(error).split())
    if file is None:
        raise OSError(
            f"{name} has no weights that can be read ({problem}). Only safetensors are: pickles (.bin, .pt) may run "
            "code. If you trust the model, load it in transformers and save it: model.save_pretrained(FOLDER)."
        )
    with _explained(f"The model {name} of transformers cannot be read"):
        model, sound = _with_weights(_configuration(known.content), read_safetensors(file))
        labels = model.config.id2label
        names = tuple(str(labels[index]) for index in sorted(labels)) if sound else ()
        return adapt(model, known.mean, known.std), names


def _with_weights(config: Any, state: dict[str, Tensor]) -> tuple[Any, bool]:
    """transformers' model with all these weights, and whether its class outputs are among them.

    Raises:
        ValueError: others are missing, left over, or of another size; names how many, and the first.
    """
    from transformers import MODEL_FOR_OBJECT_DETECTION_MAPPING

    kind: Any = MODEL_FOR_OBJECT_DETECTION_MAPPING[type(config)]
    options = {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True}
    if config.model_type in REAL_TIME:
        state = {f"model.decoder.{name}": state[name] for name in state if _HEAD.match(name)} | state
    with mock.patch.object(logging.getLogger("transformers.modeling_utils"), "disabled", True):  # its table of them
        model, info = kind.from_pretrained(None, config=config, state_dict=dict(state), **options)
    sizes = {name: f"{name} ({tuple(theirs)}, not {tuple(ours)})" for name, theirs, ours in info["mismatched_keys"]}
    missing = {name: name for name in info["missing_keys"] if not name.endswith(_COUNTER)}
    more = {name: name for name in info["unexpected_keys"] if not _known(name, state)}
    problems = {"missing": missing, "unexpected": more, "of another size (mismatch)": sizes}
    found = [_count(words, names) for words, names in problems.items() if any(not is_output(name) for name in names)]
    if found or info["error_msgs"]:
        raise ValueError(
            f"its weights are not those of its config.json: {'; '.join([*found, *info['error_msgs']])}. Download "
            "or save it again"
        )
    return model, not missing and not sizes


def _count(words: str, names: Mapping[str, str]) -> str:
    """How many weights have a problem, and the first three; class outputs have none."""
    others = [text for name, text in sorted(names.items()) if not is_output(name)]
    return f"{len(others)} {words} ({', '.join(others[:3])}{' ...' if len(others) > 3 else ''})"


def _known(name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a weight that a model has no place for says nothing new: a counter of batch norms, or a copy of another
    weight, by which older versions of transformers name a head twice."""
    copies = [key for key in state if key.endswith(f".{name}")]
    return name.endswith(_COUNTER) or any(state[key].equal(state[name]) for key in copies)
