"""The file of a training's state."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from oddetr.common.durable import open_new


class StateFile(TorchCheckpointIO):
    """Writes it where it is to be.

    Lightning's own writes it into memory, from there into the system's folder of temporary files, and copies it from
    there: three times the size, and a process that is killed leaves the middle one behind.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes `checkpoint` to the file `path`.

        Raises:
            OSError, RuntimeError: it cannot be written.
        """
        with open_new(Path(path)) as stream:
            torch.save(checkpoint, stream)
