"""Stable Diffusion as `read_checkpoint` asks for it: folders in diffusers' layout and single files in the original one."""
from __future__ import annotations

import os
from pathlib import Path

from ..checkpoints._checkpoint import Checkpoint
from ..checkpoints._errors import CheckpointError
from ._read import is_folder, is_single_file, read_folder, read_single_file


def reads(path: Path) -> bool:
    return is_folder(path) if path.is_dir() else is_single_file(path)


def read(path: Path, config: str | os.PathLike | None, variant: str | None = None) -> Checkpoint:
    """The checkpoint; `config` is what a single file is one of (see `read_single_file`), `variant` which of a folder's weights
    are read. Folders describe themselves and take none. A U-Net may read an image's latent beside the noise, as
    InstructPix2Pix's does."""
    if path.is_dir():
        if config is not None:
            raise CheckpointError(f"config: {path} is a diffusers folder, which says itself what it is; leave config out.")
        return read_folder(path, variant, concatenated=True)
    if variant is not None:
        raise CheckpointError(f"variant: {path} is a single file, which holds one set of weights; leave variant out.")
    return read_single_file(path, config, concatenated=True)
