"""Detectors of transformers that their authors trained on COCO, by short names, and how their authors fine-tune them.

    oddetr models                            # this table, and what is in the cache
    oddetr train --data DIR --model dfine-n

A row is a promise to load these weights of this commit. AP is COCO val2017's as the authors report it; it was not
measured here.
"""

import importlib.metadata
import importlib.util
import math
from dataclasses import dataclass

LICENCE = "Apache-2.0"
"""Of all weights below, by their model cards."""


@dataclass(frozen=True)
class FineTuning:
    """How the authors of a family fine-tune it.

    Attributes:
        learning_rate: AdamW's, of all but the backbone.
        backbone_factor: the backbone's rate over it.
        images: of a step.
        source: where this stands.
    """

    learning_rate: float
    backbone_factor: float
    images: int
    source: str

    def rate_for(self, images: int) -> float:
        """Return the learning rate for steps of so many images, to two digits.

        It falls with the square root of the images, which keeps the noise of Adam's steps (Malladi et al. 2022, On the
        SDEs and scaling rules for adaptive gradient algorithms), and never rises above the authors'.
        """
        rate = self.learning_rate * math.sqrt(min(1.0, images / self.images))
        return float(f"{rate:.1e}")


_DFINE = "Peterande/D-FINE, configs/dfine"
_RTDETR = "lyuwenyu/RT-DETR, rtdetrv2_pytorch/configs"
_DFINE_N = FineTuning(8e-4, 0.5, 128, f"{_DFINE}/dfine_hgnetv2_n_coco.yml")
_DFINE_S = FineTuning(1e-4, 0.5, 32, f"{_DFINE}/objects365/dfine_hgnetv2_s_obj2coco.yml")
_DFINE_M = FineTuning(1e-4, 0.1, 32, f"{_DFINE}/objects365/dfine_hgnetv2_m_obj2coco.yml")
_DFINE_X = FineTuning(1e-4, 0.01, 32, f"{_DFINE}/objects365/dfine_hgnetv2_x_obj2coco.yml")
_RTDETR_R18 = FineTuning(1e-4, 0.1, 16, f"{_RTDETR}/rtdetr/rtdetr_r18vd_6x_coco.yml")
_RTDETR_R50 = FineTuning(1e-4, 0.1, 16, f"{_RTDETR}/rtdetr/include/optimizer.yml")
_RTDETRV2_R18 = FineTuning(1e-4, 1.0, 16, f"{_RTDETR}/rtdetrv2/rtdetrv2_r18vd_120e_coco.yml")
_RTDETRV2_R34 = FineTuning(1e-4, 0.5, 16, f"{_RTDETR}/rtdetrv2/rtdetrv2_r34vd_120e_coco.yml")
_RTDETRV2_R50 = FineTuning(1e-4, 0.1, 16, f"{_RTDETR}/rtdetrv2/include/optimizer.yml")
_RTDETRV2_R101 = FineTuning(1e-4, 0.01, 16, f"{_RTDETR}/rtdetrv2/rtdetrv2_r101vd_6x_coco.yml")
_DEFORMABLE = FineTuning(2e-4, 0.1, 32, "Zhu et al. 2021, Deformable DETR, section 5")


@dataclass(frozen=True)
class PretrainedModel:
    """A detector on the Hub.

    Attributes:
        repository: user/name.
        commit: the commit whose files are loaded; None: the newest, where the commit is not known here.
        parameters: in millions; a parameter takes four bytes.
        images: what it was trained on; O365 is Objects365.
        coco_ap: box AP on COCO val2017, in 0-1, as its authors report it.
        fine_tuning: see the class.
    """

    repository: str
    commit: str | None
    parameters: int
    images: str
    coco_ap: float
    fine_tuning: FineTuning

    @property
    def address(self) -> str:
        """user/name@commit, which `find_file` takes."""
        return f"{self.repository}@{self.commit}" if self.commit else self.repository

    @property
    def cached(self) -> bool:
        """Whether configuration and weights are on this machine."""
        from huggingface_hub import try_to_load_from_cache

        found = (try_to_load_from_cache(self.repository, file, revision=self.commit) for file in NEEDED)
        return all(isinstance(file, str) for file in found)

    def unavailable(self) -> str:
        """Return why it cannot be loaded, and the command that gets it; empty if it is cached or the Hub has it."""
        if importlib.util.find_spec("transformers") is None:
            return "transformers is not installed. `pip install 'oddetr[transformers]'` installs it"
        installed = importlib.metadata.version("transformers")
        if tuple(map(int, installed.split(".")[:2])) < LEAST_VERSION:
            return f"transformers {installed} is too old. `pip install -U 'oddetr[transformers]'` renews it"
        if self.cached:
            return ""
        from huggingface_hub import HfApi, constants

        revision = f" --revision {self.commit}" if self.commit else ""
        command = f"With a network, `hf download {self.repository}{revision}` gets it"
        try:
            HfApi().model_info(self.repository, revision=self.commit, timeout=PATIENCE)
        except Exception as error:
            return f"the Hub ({constants.ENDPOINT}) does not give it ({type(error).__name__}). {command}"
        return ""


LEAST_VERSION = (5, 23)
"""Of transformers, with which the adapters were tried."""
NEEDED = ("config.json", "model.safetensors")
PATIENCE = 5
"""Seconds to wait for the Hub's answer before training starts without it."""
_COCO, _BOTH = "COCO", "O365, COCO"
CATALOGUE = {
    "dfine-n": PretrainedModel(
        "ustc-community/dfine-nano-coco", "066438d3d8f0da137a37b38fdf3368fd4afceced", 4, _COCO, 0.428, _DFINE_N
    ),
    "dfine-s": PretrainedModel(
        "ustc-community/dfine-small-obj2coco", "2b548d12a7623d674bb2aa2bf24022ce090b7736", 10, _BOTH, 0.507, _DFINE_S
    ),
    "dfine-m": PretrainedModel("ustc-community/dfine-medium-obj2coco", None, 19, _BOTH, 0.551, _DFINE_M),
    "dfine-x": PretrainedModel(
        "ustc-community/dfine-xlarge-obj2coco", "15f18d917eaddcedf9e3ffb082adcfb97a0b2d4d", 62, _BOTH, 0.593, _DFINE_X
    ),
    "rtdetr-r18": PretrainedModel(
        "PekingU/rtdetr_r18vd_coco_o365", "386c43855d01bcd966e548f3296fbd2cd2a2a40b", 20, _BOTH, 0.492, _RTDETR_R18
    ),
    "rtdetr-r50": PretrainedModel(
        "PekingU/rtdetr_r50vd_coco_o365", "457857cec8ac28ddede40ecee9eed2beca321af8", 42, _BOTH, 0.553, _RTDETR_R50
    ),
    "rtdetrv2-r18": PretrainedModel(
        "PekingU/rtdetr_v2_r18vd", "5650961749fa93567c0d46fc7f43ea4f9e914107", 20, _COCO, 0.481, _RTDETRV2_R18
    ),
    "rtdetrv2-r34": PretrainedModel("PekingU/rtdetr_v2_r34vd", None, 31, _COCO, 0.499, _RTDETRV2_R34),
    "rtdetrv2-r50": PretrainedModel(
        "PekingU/rtdetr_v2_r50vd", "282494075698cab9faa1096ae26856890030c817", 42, _COCO, 0.534, _RTDETRV2_R50
    ),
    "rtdetrv2-r101": PretrainedModel(
        "PekingU/rtdetr_v2_r101vd", "2c5dbbd2d4d8c8814827a3b42737ba1afce3cf2a", 76, _COCO, 0.543, _RTDETRV2_R101
    ),
    "deformable-detr-r50": PretrainedModel(
        "SenseTime/deformable-detr-with-box-refine",
        "2e9e461623a8fdc296e19666c46c8a4389a3a6fe",
        41,
        _COCO,
        0.462,
        _DEFORMABLE,
    ),
    "deformable-detr-plain-r50": PretrainedModel(
        "SenseTime/deformable-detr", "83ecd26945199939cb82806f988debdb71e6f43e", 40, _COCO, 0.445, _DEFORMABLE
    ),
    "deformable-detr-two-stage-r50": PretrainedModel(
        "SenseTime/deformable-detr-with-box-refine-two-stage",
        "e74bff70d69f3e825f6cefaf179bfba707f92054",
        41,
        _COCO,
        0.469,
        _DEFORMABLE,
    ),
}
"""The detectors by name; the licence of each is `LICENCE`."""
BY_KIND = {"d_fine": _DFINE_M, "rt_detr": _RTDETR_R50, "rt_detr_v2": _RTDETRV2_R50, "deformable_detr": _DEFORMABLE}
"""The fine-tuning of a detector of transformers that has no row, by its `model_type`."""
