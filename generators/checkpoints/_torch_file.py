"""Files of torch.save from anywhere: their content, without running it, and not more of it than they hold.

`torch.load(weights_only=True)` makes tensors and plain containers only; the few other classes that a training framework's file
mentions become empty stand-ins. What torch's guard leaves to the caller is here: archives that unfold to any size, tensors that
claim one stored number a billion times, and error messages that suggest to load without the guard.
"""
from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._errors import CheckpointError, UnsafePickleError

# What a Lightning file mentions besides tensors: classes as keys of `callbacks`, records of hyper-parameters, scores.
_MENTIONED = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata",
                                       "base.Metadata", "nodes.AnyNode")),
    "typing.Any",
    "builtins.dict",
    "builtins.list",
    "collections.defaultdict",
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
_DAMAGED = (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, MemoryError,
            NotImplementedError, zipfile.BadZipFile)


class Inert(dict):
    """Stands for every class of `_MENTIONED`: takes any arguments and state, and does nothing with them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


def load_torch(path: Path, what: str, instead: str = "") -> Any:
    """The content of a file of torch.save; tensors are mapped from it where its format allows.

    Args:
        path: the file, of which the caller has seen that it looks like one of torch.save
        what: it should be, for messages: "VQGAN checkpoint"
        instead: what to do where the file is hostile, a sentence

    Raises:
        UnsafePickleError: it asks for what no weights need; nothing of it was run.
        CheckpointError: it is damaged, or compressed.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK" or zipfile.is_zipfile(path)      # either way somebody might take it for one
        if zipped:
            _check_packing(path)
        with torch.serialization.safe_globals([(Inert, name) for name in _MENTIONED]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:         # torch's message suggests loading without the guard; ours does not
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = f"asks for the global `{asked[1]}`" if asked else "is not a pickle of tensors and plain containers"
        raise UnsafePickleError(f"{path} {found}: no {what} needs this. It was tampered with, damaged, or is something else; "
                                f"nothing of it was run. {instead}".rstrip()) from error
    except CheckpointError:
        raise
    except _DAMAGED as error:
        raise CheckpointError(f"{path} is truncated or damaged ({type(error).__name__}: {str(error)[:200]}); download it "
                              "again.") from error


def _check_packing(path: Path) -> None:
    """Raises for a compressed archive: torch.save writes none, tensors cannot be mapped from one, and a small one may unfold
    to any size."""
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(f"{path}: {packed[0]:.80} is compressed, which torch.save never does; if it is an archive with "
                              "the file in it, unpack it.")


def check_claims(state: Mapping[str, Tensor], source: str) -> None:
    """Raises CheckpointError where tensors claim more numbers than are stored: what is copied from a file has to be in it."""
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in state.values()}
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if claimed > sum(stored.values()):
        raise CheckpointError(f"{source}: its tensors claim {claimed} bytes, of which the file holds {sum(stored.values())}; "
                              "it was tampered with or damaged.")
