"""Reading, converting and writing generator checkpoints, without running anything a file contains.

read_checkpoint("ffhq.pkl")                          any supported file -> Checkpoint
convert("ffhq.pkl", "ffhq.safetensors")              any supported file -> native file
"""

from .._files import file_sha256
from ._checkpoint import Checkpoint
from ._errors import CheckpointError, UnsafePickleError
from ._native import read_native, write_native
from ._read import Conversion, convert, native_state, read_checkpoint
from ._shipped import check_shipped

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Conversion",
    "UnsafePickleError",
    "check_shipped",
    "convert",
    "file_sha256",
    "native_state",
    "read_checkpoint",
    "read_native",
    "write_native",
]
