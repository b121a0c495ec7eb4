"""One door to every checkpoint: the format is recognised by content, not by name."""

import hashlib
import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._families import package, readers
from ._checkpoint import Checkpoint, check_state
from ._errors import CheckpointError
from ._native import read_native, write_native
from ._standins import read_pickle
from ._stylegan import is_persistence, read_persistence
from ._tensorflow import is_tensorflow, read_tensorflow

READABLE = ("NVIDIA .pkl (PyTorch or TensorFlow), taming's .ckpt, Stable Diffusion as a diffusers folder or a single file, and "
            ".safetensors written by `probes convert`")
MISFITS = (ArithmeticError, AttributeError, IndexError, KeyError, MemoryError, RecursionError, RuntimeError, TypeError)


def read_checkpoint(path: str | os.PathLike, config: str | os.PathLike | None = None, variant: str | None = None) -> Checkpoint:
    """Reads a generator from any supported file, whatever its name, without running anything that is in it.

    Args:
        path: an NVIDIA pickle (the PyTorch or the TensorFlow form), a native .safetensors, or a file or folder that the
            reader of a family knows (`generators._families.READERS`): taming's .ckpt or .pt or the folder of its run, a
            diffusers folder, a single file of Stable Diffusion.
        config: what such a file is, where it does not say: of taming's, its .yaml, where that does not lie beside it.
        variant: which of a diffusers folder's weights, e.g. "fp16"; by default full precision.

    Returns:
        Its family, configuration and weights, which were checked to fit each other.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafePickleError: a pickle asks for anything beyond what a checkpoint needs.
        CheckpointError: it is damaged, something else, or its weights do not fit.
    """
    path, source = Path(path), str(path)
    if not path.is_file() and not path.is_dir():
        raise FileNotFoundError(f"{source}: no such checkpoint; give the path of a file: {READABLE}.")
    kind = _sniff(path)
    for reader in readers(kind):
        if reader.reads(path):
            if variant is None:
                return reader.read(path, config)
            if "variant" in inspect.signature(reader.read).parameters:
                return reader.read(path, config, variant)
    if variant is not None:
        raise CheckpointError(f"variant: {source} is no diffusers folder and holds one set of weights; leave variant out.")
    if config is not None and kind in ("safetensors", "pickle"):
        raise CheckpointError(f"config: {source} is no taming checkpoint and carries its own configuration; leave config out.")
    if kind == "safetensors":
        return read_native(path)
    if kind != "pickle":
        raise CheckpointError(f"{source} is {kind}; readable are {READABLE}.")
    data = path.read_bytes()
    root = read_pickle(data, source)
    try:
        family, config, state = _interpret(root, source, limit=2 * len(data))
        check_state(family, state, config, source)
    except CheckpointError:
        raise
    except (*MISFITS, ValueError) as error:
        raise CheckpointError(
            f"{source}: it is not laid out as a StyleGAN checkpoint is ({type(error).__name__}: {str(error)[:200]})."
        ) from error
    return Checkpoint(family, config, state, source, hashlib.sha256(data).hexdigest())


def _interpret(root: Any, source: str, limit: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    if is_tensorflow(root):
        return read_tensorflow(root, source, limit)
    if is_persistence(root):
        return read_persistence(root, source, limit)
    raise CheckpointError(f"{source} is a pickle without a StyleGAN generator in it; readable are {READABLE}.")


def _sniff(path: Path) -> str:
    """The format of what is there: "folder", or by a file's first bytes "pickle", "safetensors", "torch" (torch.save), or
    what else it looks like."""
    if path.is_dir():
        return "folder"
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        return "empty; download it again"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "safetensors"
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[2:3] == b"\x8a"):      # before torch 1.6: a magic number first
        return "torch"
    if head[:1] == b"\x80":
        return "pickle"
    if head.lstrip()[:1] == b"<":
        return "a web page, perhaps what a server sends instead of a download"
    if path.suffix == ".safetensors":
        return "named .safetensors and is not one, or is truncated; convert or download it again"
    return "of an unknown format"


@dataclass(frozen=True)
class Conversion:
    """What `convert` did."""

    source: Path
    destination: Path
    family: str
    config: dict[str, Any]
    sha256: str
    parameters: int


def convert(src: str | os.PathLike, dst: str | os.PathLike, overwrite: bool = False,
            config: str | os.PathLike | None = None) -> Conversion:
    """Converts any readable checkpoint to a native .safetensors, with the run-time gains folded into the weights.

    Args:
        src: the checkpoint.
        dst: the .safetensors to write; it appears complete or not at all.
        overwrite: replace an existing `dst`.
        config: as for `read_checkpoint`.

    Returns:
        What was read and written; `sha256` is the source's, which the file records too.

    Raises:
        CheckpointError: `src` cannot be read or is of a family that is not supported.
        FileExistsError: `dst` exists and `overwrite` is False.
        OutputError: `dst` cannot be written: a full disk, a read-only folder and the like.
    """
    if Path(dst).exists() and not overwrite:
        raise FileExistsError(f"{dst} exists; pass overwrite=True (--overwrite) to replace it, or choose another name.")
    checkpoint = read_checkpoint(src, config)
    config, state = native_state(checkpoint)
    origin = {"source": Path(src).name, "source_sha256": checkpoint.sha256}
    extra = {**origin, **(checkpoint.metadata or {})}  # a native file stays attributed to what it was made from
    write_native(dst, checkpoint.family, config, state, extra, overwrite)
    count = sum(value.numel() for value in state.values())
    return Conversion(Path(src), Path(dst), checkpoint.family, config, checkpoint.sha256, count)


def native_state(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config, state) as the network of its family takes them: gains folded, names its own."""
    if checkpoint.folded:
        return checkpoint.config, checkpoint.state
    return package(checkpoint.family, "._format").native(checkpoint.config, checkpoint.state)
