"""Our own checkpoints: a .safetensors file with the family and its configuration as metadata.

The weights are the network's own `state_dict` (run-time gains folded in), so a file written here needs no conversion
and, being safetensors, can hold nothing but tensors and text. It keeps a digest of its tensors, since a bit that changed
on a disk or on the way would only draw other images.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .._files import file_sha256, write_tensors
from ._checkpoint import Checkpoint, check_state
from ._errors import CheckpointError

FORMAT, VERSION = "probes-generator", "1"
REQUIRED = ("format", "version", "family", "config")
DIGEST = "tensors_sha256"       # files of before there was one are read without
RESERVED = (*REQUIRED, DIGEST)


def write_native(
    path: str | os.PathLike,
    family: str,
    config: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    extra_metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a native checkpoint, complete or not at all.

    Args:
        path: a name that ends in .safetensors.
        family: e.g. "stylegan2".
        config: JSON types, as `StyleGAN2Config.to_dict` gives them.
        state: the network's `state_dict`, gains folded.
        extra_metadata: more text to keep with it, e.g. where it came from and its licence.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        CheckpointError: `state` does not fit `config`.
        OutputError: it cannot be written: a full disk, a read-only folder and the like.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: a native checkpoint's name ends in .safetensors; use {path.with_suffix('')}.safetensors"
        )
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it, or choose another name.")
    extra = dict(extra_metadata or {})
    if clash := [key for key in extra if key in RESERVED]:
        raise CheckpointError(f"extra_metadata uses the reserved keys {', '.join(clash)}; rename them.")
    check_state(family, state, config, str(path))
    tensors = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    metadata = {"format": FORMAT, "version": VERSION, "family": family, "config": json.dumps(config),
                DIGEST: _tensors_sha256(tensors), **extra}
    write_tensors(path, tensors, metadata)
    return path


def read_native(path: str | os.PathLike) -> Checkpoint:
    """Reads what `write_native` wrote.

    Raises:
        CheckpointError: the file is truncated or altered, was written by something else, or its weights do not fit its
            configuration.
    """
    from safetensors import SafetensorError, safe_open

    source = str(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            _check_metadata(metadata, source)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise CheckpointError(
            f"{source} is truncated or not a .safetensors file ({error}); convert or download it again."
        ) from error
    try:
        config = json.loads(metadata["config"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: its configuration is not JSON ({error}); convert it again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{source}: its configuration is not a JSON object; convert it again.")
    check_state(metadata["family"], state, config, source)
    expected = metadata.get(DIGEST)
    if expected is not None and (found := _tensors_sha256(state)) != expected:
        raise CheckpointError(
            f"{source}: its weights are not those that were written (sha256 {found[:12]}, expected {expected:.12}): the file "
            "was altered or damaged since; convert or download it again."
        )
    extra = {key: value for key, value in metadata.items() if key not in RESERVED}
    return Checkpoint(metadata["family"], config, state, source, file_sha256(path), folded=True, metadata=extra)


def _tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """The sha256 of names, types, shapes and bytes, whatever their order in the file."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_metadata(metadata: Mapping[str, str], source: str) -> None:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{source} is a .safetensors file that this software did not write (format "
            f"{metadata.get('format')!r:.80}, expected {FORMAT!r}); convert the original with "
            "`probes convert original.pkl out.safetensors`."
        )
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"{source} has version {metadata.get('version')!r:.80} of the format, this software reads {VERSION}; "
            "update it, or convert the original again."
        )
    if missing := [key for key in REQUIRED if key not in metadata]:
        raise CheckpointError(f"{source} lacks the metadata {', '.join(missing)}; convert it again.")
