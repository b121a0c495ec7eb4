"""What taming-transformers wrote, as `read_checkpoint` asks for it: any file of torch.save, any folder, for neither says whose
it is; what is wrong with one that is not taming's, its reader says."""
from __future__ import annotations

import os
from pathlib import Path

from ..checkpoints._checkpoint import Checkpoint
from ..checkpoints._taming import read_taming


def reads(path: Path) -> bool:
    return True


def read(path: Path, config: str | os.PathLike | None) -> Checkpoint:
    """The checkpoint; `config` is its .yaml, where that does not lie beside it."""
    return read_taming(path, config)
