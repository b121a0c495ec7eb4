"""The allow-list: what the globals of a StyleGAN pickle become. None of it is the thing that was named.

Networks become a `Record` (class name and state, both inert), dictionaries of every kind a `dict`, arrays an `Array`,
tensors real tensors whose sizes and strides were checked against their storage. The names are those found in full
checkpoints of stylegan2-ada-pytorch, stylegan3, stylegan-xl and the TensorFlow originals, in both numpy dialects.
"""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ._errors import UnsafePickleError
from ._storage import Storage, is_size, read_storage
from ._unpickler import Budget, Buildable, RestrictedUnpickler, Standin, flat

DTYPES = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split())
NUMPY_CORES = ("numpy.core", "numpy._core")
TORCH_DTYPES = ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
TORCH_MODULES = {
    "sparse": ("Embedding",),
    "linear": ("Linear", "Identity"),
    "container": ("ModuleList", "ModuleDict", "Sequential"),
}
MAX_DIMS = 8


class Record(Buildable):
    """A network as the pickle describes it: the name of its class and its `__dict__`, which stays a plain dict."""

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str, state: dict[str, Any] | None = None):
        self.class_name = class_name
        self.state: dict[str, Any] = {}
        if state is not None:
            self.build(state)

    def build(self, state: Any) -> None:
        if type(state) is not dict or self.state:
            raise UnsafePickleError(f"it gives a {self.class_name[:80]} the state of another kind of object")
        for key in state:
            if type(key) is not str or key.startswith("__"):
                raise UnsafePickleError(f"the state of a {self.class_name[:80]} sets {key!r:.80}")
        self.state = state

    def child(self, name: str) -> Any:
        """The submodule `name`, or None."""
        modules = self.state.get("_modules")
        return modules.get(name) if type(modules) is dict else None


class Dtype(Buildable):
    """A plain number type; byte order arrives by BUILD."""

    __slots__ = ("code", "order")

    def __init__(self, code: str):
        if code not in DTYPES:
            raise UnsafePickleError(f"it asks for numpy arrays of type {code!r:.80}, not plain numbers")
        self.code, self.order = code, "<"

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) not in (8, 9) or state[1] not in ("<", ">", "|", "="):
            raise UnsafePickleError("it gives a numpy dtype a state that no number type has")
        if any(part is not None for part in state[2:5]):
            raise UnsafePickleError("it asks for structured numpy arrays, not plain numbers")
        self.order = state[1]

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class Array(Buildable):
    """A numpy array: `value` is a read-only view of the bytes in the file."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray | None = None):
        self.value = np.empty(0, np.float32) if value is None else value

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if type(data) is not bytes:
            raise UnsafePickleError("a numpy array's data are objects, not bytes")
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: bytes, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if type(dtype) is not Dtype:
        raise UnsafePickleError(f"a numpy array's dtype is a {type(dtype).__name__}")
    if type(shape) is not tuple or len(shape) > MAX_DIMS or not all(map(is_size, shape)):
        raise UnsafePickleError(f"a numpy array has the shape {shape!r:.80}")
    kind = dtype.numpy()
    if math.prod(shape) * kind.itemsize != len(data):
        raise UnsafePickleError(f"a numpy array of shape {shape!r:.80} has {len(data)} bytes of data")
    return np.frombuffer(data, kind).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    if type(data) is not bytes:
        raise UnsafePickleError("a numpy scalar's data is not bytes")
    return _array(data, dtype, (), "C").item()


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    if kind is not NDARRAY:
        raise UnsafePickleError("it rebuilds an array of a class other than numpy.ndarray")
    return Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    if type(data) is not bytes or order not in ("C", "F"):
        raise UnsafePickleError("a numpy array's data is not bytes")
    return Array(_array(data, dtype, shape, order))


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, *metadata: Any) -> Any:
    """A view of `storage`: [size] elements from `offset`, in bounds and no more of them than the storage holds."""
    if type(storage) is not Storage:
        raise UnsafePickleError(f"a tensor is rebuilt from a {type(storage).__name__}, not from a storage")
    numel = storage.data.numel()
    if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride) or len(size) > MAX_DIMS:
        raise UnsafePickleError(f"a tensor has size {size!r:.80} and stride {stride!r:.80}")
    if not all(map(is_size, (offset, *size, *stride))):
        raise UnsafePickleError(f"a tensor has size {size!r:.80}, stride {stride!r:.80} and offset {offset!r:.80}")
    count = math.prod(size)
    if count == 0:
        return storage.data.new_empty(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count > numel or last >= numel:
        raise UnsafePickleError(
            f"a tensor of size {size}, stride {stride}, offset {offset} leaves its storage of {numel}"
        )
    return storage.data.as_strided(size, stride, offset)


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> torch.Tensor:
    if type(data) is not torch.Tensor:
        raise UnsafePickleError(f"a parameter is made from a {type(data).__name__}, not from a tensor")
    return data


def _persistent(meta: Any) -> Record:
    """`torch_utils.persistence` without its source code: `module_src` is dropped unread."""
    if type(meta) is not dict or meta.get("type") != "class" or type(meta.get("class_name")) is not str:
        raise UnsafePickleError("a persistent object is not of the form {type: class, class_name, state}")
    return Record(meta["class_name"], meta.get("state"))


def _empty_dict(*args: Any) -> dict:
    if args:
        raise UnsafePickleError("a dictionary is made from arguments")
    return {}


def _set(items: Any = ()) -> set:
    if type(items) is not list and items != ():
        raise UnsafePickleError(f"a set is made from a {type(items).__name__}")
    return set(map(flat, items))


def _torch_size(sizes: Any) -> tuple[int, ...]:
    if type(sizes) not in (tuple, list) or not all(map(is_size, sizes)):
        raise UnsafePickleError("a torch.Size is not made of sizes")
    return tuple(sizes)


def _latin1(budget: Budget) -> Callable[[Any, Any], bytes]:
    """Protocol 2 writes bytes as `_codecs.encode(text, "latin1")`; no other codec is meant by it."""

    def encode(text: Any, codec: Any) -> bytes:
        if type(text) is not str or codec not in ("latin1", "latin-1"):
            raise UnsafePickleError(f"it uses the codec {codec!r:.80}")
        budget.spend(len(text))
        return text.encode("latin1")

    return encode


NDARRAY = Standin("numpy.ndarray")


def globals_table(source: str, budget: Budget) -> dict[tuple[str, str], Any]:
    """(module, name) -> stand-in, for one file."""
    dictionary = {"call": _empty_dict, "new": dict}

    def load_from_bytes(data: Any) -> Storage:
        return read_storage(data, f"{source} (a tensor inside it)", budget)

    table: dict[tuple[str, str], Any] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): Standin("persistence", call=_persistent),
        ("collections", "OrderedDict"): Standin("collections.OrderedDict", **dictionary),
        ("dnnlib.util", "EasyDict"): Standin("dnnlib.util.EasyDict", **dictionary),
        ("dnnlib.tflib.network", "Network"): _record("Network"),
        ("torch._utils", "_rebuild_parameter"): Standin("torch._utils._rebuild_parameter", call=_parameter),
        ("torch._utils", "_rebuild_tensor_v2"): Standin("torch._utils._rebuild_tensor_v2", call=_tensor),
        ("torch.storage", "_load_from_bytes"): Standin("torch.storage._load_from_bytes", call=load_from_bytes),
        ("torch", "Size"): Standin("torch.Size", call=_torch_size),
        ("numpy", "ndarray"): NDARRAY,
        ("numpy", "dtype"): Standin("numpy.dtype", call=lambda code, align=False, copy=True: Dtype(code)),
        ("_codecs", "encode"): Standin("_codecs.encode", call=_latin1(budget)),
    }
    for builtins in ("builtins", "__builtin__"):  # protocols 2 and 3; from 4 on a set has an opcode
        table[builtins, "set"] = Standin("set", call=_set)
    for core in NUMPY_CORES:
        table[f"{core}.multiarray", "scalar"] = Standin("numpy scalar", call=_scalar)
        table[f"{core}.multiarray", "_reconstruct"] = Standin("numpy _reconstruct", call=_reconstruct)
        table[f"{core}.numeric", "_frombuffer"] = Standin("numpy _frombuffer", call=_frombuffer)
    for name in TORCH_DTYPES:
        table["torch", name] = name
    for module, names in TORCH_MODULES.items():
        table.update({(f"torch.nn.modules.{module}", name): _record(name) for name in names})
    return table


def _record(name: str) -> Standin:
    return Standin(name, new=lambda: Record(name))


def read_pickle(data: bytes, source: str) -> Any:
    """What the pickle `data` describes, as records, dicts, lists, numbers, arrays and tensors.

    Raises:
        UnsafePickleError: it asks for more than a checkpoint needs.
        CheckpointError: it is truncated or damaged.
    """
    budget = Budget(2 * len(data))  # a storage or string is copied once; twice leaves room for shared ones
    return RestrictedUnpickler(io.BytesIO(data), source, globals_table(source, budget)).load()
