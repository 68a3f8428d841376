"""Multi-scale deformable attention: four implementations that agree; depthwise convolution.

`deformable_attention` chooses the implementation: `reference` (grid_sample), `gather`, `cpu` (numba) or `gpu` (Triton).
`inputs` checks inputs, `function` makes loops differentiable, `compiled` compiles numba loops and shares them among
threads, `own` loads our kernels where they compile.
"""

from oddetr.models.kernels.deformable import deformable_attention

__all__ = ["deformable_attention"]
