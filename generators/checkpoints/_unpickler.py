"""A pickle reader for files from strangers: it imports nothing and calls nothing that a file names.

A pickle is a program for a small stack machine, and `pickle.load` runs it with the whole of Python as its library.
This machine has an allow-list for a library. A global is an exact (module, name) pair that stands for one of *our*
functions (`Standin`); an attribute path such as `OrderedDict.fromkeys.__self__` is simply not in the table. Only a
stand-in can be called (REDUCE) or instantiated (NEWOBJ); BUILD hands a state to a `Buildable` of ours and never touches
an attribute. Opcodes no checkpoint uses (INST, OBJ, EXT, persistent ids, the text opcodes of protocols 0 and 1) are
refused. Their arguments are decoded by the readers of `pickletools`, which execute nothing.

Values are exact builtins, dict keys are flat, nesting costs no recursion, and what the stand-ins materialise is paid
for from a `Budget` in proportion to the file, so a small file cannot ask for a large memory.
"""

import io
import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ._errors import CheckpointError, UnsafePickleError

ADVICE = (
    "No checkpoint needs this: the file was tampered with, or it is not a StyleGAN checkpoint. Nothing of it was run. "
    "If you trust it, load it with the software that wrote it, in a sandbox, and save its weights as .safetensors."
)


@dataclass(frozen=True)
class Standin:
    """Our answer to a global: what REDUCE may call and what NEWOBJ may make (None: may not)."""

    name: str
    call: Callable[..., Any] | None = None
    new: Callable[[], Any] | None = None


class Buildable(ABC):
    """An object of ours that accepts a BUILD state, once, by validating it."""

    __slots__ = ()

    @abstractmethod
    def build(self, state: Any) -> None:
        """Takes the state, or raises CheckpointError."""


@dataclass
class Budget:
    """Bytes that may still be materialised; every legitimate byte is in the file already."""

    left: int

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise UnsafePickleError("it unpacks to far more memory than its size: a decompression bomb")


MARK = object()
FLAT = (str, int, float, bool, bytes, type(None))
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTIES = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
VALUES = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT SHORT_BINSTRING BINSTRING SHORT_BINBYTES BINBYTES BINBYTES8 "
    "BYTEARRAY8 SHORT_BINUNICODE BINUNICODE BINUNICODE8".split()
)
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
OTHERS = frozenset(
    "STOP PROTO FRAME MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET MARK POP POP_MARK TUPLE FROZENSET APPEND APPENDS "
    "SETITEM SETITEMS ADDITEMS GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID".split()
)
NAMES = VALUES | OTHERS | set(CONSTANTS) | set(EMPTIES) | set(TUPLES)
OPCODES = {code.code.encode("latin1"): (code.name, code.arg) for code in pickletools.opcodes if code.name in NAMES}
DAMAGE = (AttributeError, EOFError, IndexError, KeyError, MemoryError, OverflowError, RecursionError, RuntimeError,
          TypeError, UnicodeError, ValueError)  # fmt: skip


class RestrictedUnpickler:
    """Reads one pickle from `file` with the globals of `table`.

    Args:
        file: binary stream, left just behind the pickle's STOP.
        source: how messages name the file.
        table: (module, name) -> `Standin` or a plain constant.
        persistent: resolves persistent ids; without it they are refused.

    Raises:
        UnsafePickleError: the pickle asks for a global or an operation outside the allow-list.
        CheckpointError: the pickle is truncated or damaged.
    """

    def __init__(
        self,
        file: io.BytesIO,
        source: str,
        table: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
    ):
        self.file, self.source, self.table, self.persistent = file, source, table, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        try:
            while code := self.file.read(1):
                if code not in OPCODES:
                    raise self._refusal(code)
                name, argument = OPCODES[code]
                if name == "STOP":
                    if len(self.stack) != 1:
                        raise ValueError(f"{len(self.stack)} values where one should be")
                    return self._top()
                self._step(name, argument.reader(self.file) if argument else None)
        except UnsafePickleError as error:
            if str(error).startswith(self.source):
                raise
            raise UnsafePickleError(f"{self.source}: {error}. {ADVICE}") from error
        except CheckpointError:
            raise
        except DAMAGE as error:
            raise CheckpointError(
                f"{self.source} is truncated, damaged or not a pickle ({type(error).__name__}: {str(error)[:200]}); "
                "download it again and compare its sha256."
            ) from error
        raise CheckpointError(f"{self.source} ends before its pickle does; download it again.")

    def _step(self, op: str, arg: Any) -> None:
        stack, memo = self.stack, self.memo
        if op in VALUES:
            stack.append(bytes(arg) if op == "BYTEARRAY8" else arg)
        elif op in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if op == "MEMOIZE" else arg] = self._top()
        elif op in ("BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif op in CONSTANTS:
            stack.append(CONSTANTS[op])
        elif op in EMPTIES:
            stack.append(EMPTIES[op]())
        elif op in TUPLES:
            stack.append(tuple(self._pop(TUPLES[op])))
        elif op == "MARK":
            stack.append(MARK)
        elif op == "POP":
            stack.pop()
        elif op == "POP_MARK":
            self._pop_mark()
        elif op == "TUPLE":
            stack.append(tuple(self._pop_mark()))
        elif op == "FROZENSET":
            stack.append(frozenset(map(flat, self._pop_mark())))
        elif op in ("APPEND", "APPENDS"):
            items = self._pop(1) if op == "APPEND" else self._pop_mark()
            self._target(list, op).extend(items)
        elif op in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if op == "SETITEM" else self._pop_mark()
            self._target(dict, op).update(zip(map(flat, items[::2]), items[1::2], strict=True))
        elif op == "ADDITEMS":
            items = self._pop_mark()
            self._target(set, op).update(map(flat, items))
        elif op in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(self._find(arg.split(" ", 1) if op == "GLOBAL" else self._pop(2)))
        elif op in ("REDUCE", "NEWOBJ"):
            target, args = self._pop(2)
            stack.append(self._apply(op, target, args))
        elif op == "BUILD":
            (state,) = self._pop(1)
            self._target(Buildable, op).build(state)
        elif op == "BINPERSID" and self.persistent is not None:
            stack.append(self.persistent(self._pop(1)[0]))
        elif op == "BINPERSID":
            raise UnsafePickleError("it refers to something outside the file by a persistent id (BINPERSID)")

    def _refusal(self, code: bytes) -> Exception:
        """Why a byte that is no opcode of ours ends the reading."""
        known = {opcode.code.encode("latin1"): opcode.name for opcode in pickletools.opcodes}
        if code in known:
            return UnsafePickleError(f"it uses the pickle opcode {known[code]}")
        return ValueError(f"byte {code!r} is no pickle opcode")

    def _find(self, name: Any) -> Any:
        module, attribute = name
        if type(module) is not str or type(attribute) is not str:
            raise UnsafePickleError("it computes the name of a global")
        if (module, attribute) not in self.table:
            raise UnsafePickleError(f"it asks for the global `{module}.{attribute}`"[:300])
        return self.table[module, attribute]

    @staticmethod
    def _apply(op: str, target: Any, args: Any) -> Any:
        if not isinstance(target, Standin) or type(args) is not tuple:
            raise UnsafePickleError(f"it calls a {type(target).__name__} ({op})")
        if op == "REDUCE" and target.call is not None:
            return target.call(*args)
        if op == "NEWOBJ" and target.new is not None and not args:
            return target.new()
        raise UnsafePickleError(f"it uses `{target.name}` as no checkpoint does ({op}, {len(args)} arguments)")

    def _top(self) -> Any:
        if self.stack[-1] is MARK:
            raise ValueError("a mark where a value should be")
        return self.stack[-1]

    def _target(self, kind: type, op: str) -> Any:
        target = self._top()
        if not (isinstance(target, Buildable) if kind is Buildable else type(target) is kind):
            raise UnsafePickleError(f"it applies {op} to a {type(target).__name__}")
        return target

    def _pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count or any(item is MARK for item in items):
            raise ValueError("stack underflow")
        del self.stack[-count:]
        return items

    def _pop_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:  # ends in IndexError on a stack without a mark
            at -= 1
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items


def flat(key: Any) -> Any:
    """Keys are scalars or flat tuples: hashing a deeply nested tuple overflows the C stack."""
    if type(key) in FLAT or (type(key) is tuple and len(key) <= 8 and all(type(part) in FLAT for part in key)):
        return key
    raise UnsafePickleError(f"a {type(key).__name__} is used as a dictionary key")
