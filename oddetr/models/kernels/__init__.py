"""Multi-scale deformable attention: one function in three forms that agree.

`deformable_attention` chooses the form; `reference`, `gather` and `cpu` each hold one, `inputs` what they share.
"""

from oddetr.models.kernels.deformable import deformable_attention

__all__ = ["deformable_attention"]
