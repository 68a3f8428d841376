"""Multi-scale deformable attention: one function in three forms that agree; and depthwise convolution.

`deformable_attention` chooses the form; `reference`, `gather` and `cpu` each hold one, `inputs` what they share.
`compiled` is how loops become machine code and are shared among threads.
"""

from oddetr.models.kernels.deformable import deformable_attention

__all__ = ["deformable_attention"]
