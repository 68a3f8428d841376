"""Multi-scale deformable attention: one function in four forms that agree; depthwise convolution.

`deformable_attention` chooses the form; `reference`, `gather`, `cpu` and `gpu` each hold one, `inputs` what they share,
`function` what the two with loops of our own share. `compiled` is how numba's loops become machine code and are shared
among threads.
"""

from oddetr.models.kernels.deformable import deformable_attention

__all__ = ["deformable_attention"]
