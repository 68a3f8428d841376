"""Multi-scale deformable attention in four implementations that agree, and depthwise convolution.

`deformable_attention` chooses the implementation: `cpu` (numba), `gpu` (Triton) or one of `operators` (`grid_sample`,
gather). `inputs` checks inputs, `loops` makes a device's loops differentiable, `compiled` compiles numba loops and
shares them among threads, `choice` finds what suits a call.
"""

from oddetr.models.kernels.deformable import deformable_attention

__all__ = ["deformable_attention"]
