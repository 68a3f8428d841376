"""A detector of `transformers` by its configuration or its name; `huggingface_detectors` has the adapters."""

import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oddetr.models.backbone import require_own
from oddetr.models.huggingface_detectors import IMAGENET, REAL_TIME, HuggingFaceDetector, adapt, check_kind
from oddetr.nested import flat
from oddetr.untrusted import read_json, read_normalisation

_MOST = {"layers|levels|depths|blocks": 1000, "size": 16_384, "": 10**6}
"""The largest whole number in a configuration, by what its name holds."""
_PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation where images are not normalised."""


@dataclass(frozen=True)
class HuggingFaceConfig:
    """What a detector of transformers is made of.

    Attributes:
        content: of its config.json.
        mean, std: normalisation of RGB in [0, 1].

    Raises:
        ValueError: of a kind that is not supported, with a backbone from elsewhere, or larger numbers than any has.
    """

    content: dict[str, Any]
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]

    def __post_init__(self) -> None:
        check_kind(self.kind)
        if not isinstance(self.content.get("backbone_config"), dict):
            raise ValueError("there is no backbone_config, without which transformers looks elsewhere for a backbone")
        for field, value in flat({name: value for name, value in self.content.items() if name != "label2id"}).items():
            _check_field(field, value)

    @property
    def kind(self) -> str:
        """`model_type`."""
        return str(self.content.get("model_type"))

    @property
    def class_agnostic(self) -> bool:
        """Whether the encoder's first output means "is an object"."""
        return bool(self.kind == "deformable_detr" and self.content.get("two_stage"))

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "HuggingFaceConfig":
        """From what `dataclasses.asdict` gave, also by way of JSON."""
        return cls(values["content"], *read_normalisation(values))

    @classmethod
    def read(cls, name: str) -> "HuggingFaceConfig":
        """From a folder, or by a name on the hub; normalisation as its image processor has it, else its kind's.

        Raises:
            OSError: there is no such model; ValueError: see the class.
        """
        from transformers import AutoConfig
        from transformers.utils import cached_file

        content = AutoConfig.from_pretrained(name, trust_remote_code=False).to_dict()
        mean, std = _PLAIN if content.get("model_type") in REAL_TIME else IMAGENET
        optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        file = cached_file(name, "preprocessor_config.json", **optional)
        if file is not None:
            told = read_json(Path(file))
            mean, std = (told["image_mean"], told["image_std"]) if told.get("do_normalize", True) else _PLAIN
        return cls(content, tuple(mean), tuple(std))

    def override(self, changes: dict[str, Any]) -> "HuggingFaceConfig":
        """The same with some fields of its config.json changed.

        Raises:
            ValueError: no such field.
        """
        for name in changes:
            if name not in self.content:
                raise ValueError(f"transformers' {self.kind} has no field {name!r}; its config.json lists them.")
        return HuggingFaceConfig(self.content | changes, self.mean, self.std)

    def for_classes(self, names: Sequence[str]) -> "HuggingFaceConfig":
        """The same with outputs for these classes."""
        labels = {str(index): name for index, name in enumerate(names)}
        content = self.content | {"id2label": labels, "label2id": {name: int(key) for key, name in labels.items()}}
        return HuggingFaceConfig(content, self.mean, self.std)

    def build(self) -> HuggingFaceDetector:
        """The detector with random weights, its backbone's too."""
        return adapt(self._model(), self.mean, self.std)

    def _model(self) -> Any:
        from transformers import AutoConfig, AutoModelForObjectDetection

        content = {name: value for name, value in _local(self.content).items() if name != "backbone"}
        config = AutoConfig.for_model(**content)
        return AutoModelForObjectDetection.from_config(config, trust_remote_code=False)


def _check_field(field: str, value: Any) -> None:
    """Raises ValueError for a backbone from elsewhere, and for a larger number than any detector has."""
    name = field.rpartition(".")[2]
    if name == "backbone" and isinstance(value, str):
        require_own(value)
    most = next(most for words, most in _MOST.items() if re.search(words, name))
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int) and number > most:
            raise ValueError(f"{field} is {reprlib.repr(value)}; it is at most {most:,}.")


def _local(content: dict[Any, Any]) -> dict[Any, Any]:
    """The same without what transformers would ask the Hub for, and without a number of classes beside their names."""
    inner = {name: _local(value) if isinstance(value, dict) else value for name, value in content.items()}
    return {name: value for name, value in inner.items() if not re.fullmatch(_ELSEWHERE, str(name))}


_ELSEWHERE = r"num_labels|backbone_kwargs|use_timm_backbone|use_pretrained_backbone|use_kernels|\w*_implementation"


def configuration_only(name: str) -> bool:
    """Whether `name` is a folder with a config.json and no weights: a detector that is to begin at random."""
    folder = Path(name)
    return (folder / "config.json").is_file() and not any(
        file.suffix in (".safetensors", ".bin") for file in folder.iterdir()
    )


def load_pretrained(name: str) -> tuple[HuggingFaceDetector, tuple[str, ...]]:
    """The detector of a folder or of a name on the hub, with its weights, and its classes' names. Only safetensors are
    read, and no code that comes with them is run.

    Raises:
        OSError: there is no such model, or it has no safetensors.
    """
    from transformers import AutoModelForObjectDetection

    try:
        model = AutoModelForObjectDetection.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
    except OSError as error:
        raise OSError(
            f"{name} has no weights that can be read ({error}). Only safetensors are: pickles (.bin, .pt) may execute "
            "what is in them. Whoever trusts the model saves it anew: model.save_pretrained(FOLDER)."
        ) from error
    labels = model.config.id2label
    return adapt(model), tuple(labels[index] for index in sorted(labels))
