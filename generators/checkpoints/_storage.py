"""The `torch.save` file that a pickled tensor carries inside it, read without torch's unpickler.

`torch.storage._load_from_bytes` gets a whole legacy `torch.save` file, which the original loads without `weights_only`:
a second door for hostile code. The format is four pickles and the raw data,

    magic number | protocol 1001 | {little_endian, ...} | the storage, as a persistent id | [keys] | numel, bytes

so the same restricted machine reads it, with nothing but the storage types for an allow-list. Pickling a tensor has
always used this layout, never the newer zip.
"""

import io
import struct
from typing import Any

import torch

from ._errors import UnsafePickleError
from ._unpickler import Budget, RestrictedUnpickler

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
TABLE = {(module, name): dtype for module in ("torch", "torch.cuda") for name, dtype in STORAGES.items()}
TABLE["torch.storage", "UntypedStorage"] = torch.uint8


def is_size(value: Any) -> bool:
    """A plain int that can be a size, a stride or an offset."""
    return type(value) is int and 0 <= value < 1 << 48


class Storage:
    """A flat tensor that tensors are views of; on the CPU, wherever it was saved."""

    __slots__ = ("data",)

    def __init__(self, data: torch.Tensor):
        self.data = data


def read_storage(data: Any, source: str, budget: Budget) -> Storage:
    """The one storage in the legacy `torch.save` file `data`."""
    if type(data) is not bytes or data[:1] != b"\x80":
        raise UnsafePickleError("a tensor's storage is not in the layout that pickling a tensor writes")
    file = io.BytesIO(data)

    def load(persistent: Any = None) -> Any:
        return RestrictedUnpickler(file, source, TABLE, persistent).load()

    if load() != MAGIC or load() != PROTOCOL:
        raise UnsafePickleError("a tensor's storage lacks the magic number and protocol of the legacy torch.save")
    system = load()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise UnsafePickleError("a tensor's storage is not little-endian")
    dtype, key, numel = load(_storage_id)
    keys = load()
    if keys != [key]:
        raise UnsafePickleError("a storage announces one key and brings others")
    (stored,) = struct.unpack("<q", file.read(8))
    size = numel * dtype.itemsize
    raw = memoryview(data)[file.tell() :][:size]
    if stored != numel or len(raw) != size:
        raise ValueError(f"a storage of {numel} elements holds {len(raw)} of {size} bytes")
    budget.spend(size)
    return Storage(torch.frombuffer(bytearray(raw), dtype=dtype) if numel else torch.empty(0, dtype=dtype))


def _storage_id(saved: Any) -> tuple[torch.dtype, str, int]:
    if type(saved) is not tuple or len(saved) not in (5, 6) or saved[0] != "storage" or saved[5:] not in ((), (None,)):
        raise UnsafePickleError("a storage has a persistent id of an unknown form")
    _, dtype, key, _, numel = saved[:5]
    if type(dtype) is not torch.dtype or type(key) is not str or not is_size(numel):
        raise UnsafePickleError("a storage has a persistent id of an unknown form")
    return dtype, key, numel
