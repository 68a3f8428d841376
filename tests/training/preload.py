"""What the process from which trainings are forked has imported and compiled: so that each of them begins in a second.

Nothing here may start a thread or use autograd, neither of which survives a fork.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

import faster_coco_eval  # noqa: F401
import torch

import oddetr.cli
import oddetr.prediction.predictor
import oddetr.training.run  # noqa: F401
from oddetr.models.kernels import cpu

torch.set_num_threads(1)
value, places = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1, 2)
output = cpu._LOOPS.forward(((1, 1),), value, places, places[..., 0])
cpu._LOOPS.backward(((1, 1),), value, places, places[..., 0], output)
