"""Write the state of a training to its file."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from oddetr.common.durable import open_new


class StateFile(TorchCheckpointIO):
    """Write the state directly to its place.

    Lightning's own writer goes through memory and a temporary file: three times the size, and a killed process leaves
    the temporary file behind.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to the file `path`.

        Raises:
            OSError, RuntimeError: it cannot be written.
        """
        with open_new(Path(path)) as stream:
            torch.save(checkpoint, stream)
