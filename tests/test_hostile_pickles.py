"""Files that try to run code, to reach beyond their buffers, or to exhaust the machine. None may; each must say so.

Every case names a canary file that it would create if any of it ran. A few cases are also given to plain
`pickle.loads`, in a process of their own, to show that the corpus is not toothless.
"""

import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import make_pickles
import numpy as np
import pytest
import torch
from make_pickles import P4, Call, call, name, number, text
from test_checkpoints import TINY, random_state

from generators.checkpoints import CheckpointError, UnsafePickleError, convert, read_checkpoint


def touch(canary: Path) -> str:
    return f"{sys.executable} -c \"open(r'{canary}', 'w')\""


def source(canary: Path) -> str:
    return f"open(r'{canary}', 'w')"


def run(canary: Path) -> Call:
    return Call(os.system, touch(canary))


# --- pickles that call something ---------------------------------------------------------------------------------


def global_call(module: str, attribute: str, *args: str):
    """A pickle that calls `module.attribute` on strings; `{source}` and `{touch}` stand for ways to make the canary."""

    def forge(canary: Path) -> bytes:
        filled = [arg.format(source=source(canary), touch=touch(canary), canary=canary) for arg in args]
        return P4 + call(name(module, attribute), *map(text, filled)) + b"."

    return forge


CALLS = {
    "posix.system": ("posix", "system", "{touch}"),
    "os.system": ("os", "system", "{touch}"),
    "nt.system": ("nt", "system", "{touch}"),
    "os.popen": ("os", "popen", "{touch}"),
    "subprocess.getoutput": ("subprocess", "getoutput", "{touch}"),
    "subprocess.Popen": ("subprocess", "Popen", "{touch}"),
    "eval": ("builtins", "eval", "{source}"),
    "exec": ("builtins", "exec", "{source}"),
    "py2-eval": ("__builtin__", "eval", "{source}"),
    "open": ("builtins", "open", "{canary}", "w"),
    "import": ("builtins", "__import__", "webbrowser"),
    "importlib": ("importlib", "import_module", "webbrowser"),
    "getattr": ("builtins", "getattr", "os", "system"),
    "breakpoint": ("builtins", "breakpoint"),
    "timeit": ("timeit", "timeit", "{source}"),
    "runpy": ("runpy", "run_path", "{canary}"),
    "pty.spawn": ("pty", "spawn", "{touch}"),
    "webbrowser.open": ("webbrowser", "open", "file://{canary}"),
    "code": ("code", "InteractiveInterpreter.runcode", "{source}"),
    "attrgetter": ("operator", "attrgetter", "system"),
    "methodcaller": ("operator", "methodcaller", "system", "{touch}"),
    "partial": ("functools", "partial", "{source}"),
    "copyreg": ("copyreg", "_reconstructor", "os"),
    "FunctionType": ("types", "FunctionType", "{source}"),
    "CodeType": ("types", "CodeType", "{source}"),
    "pickle.loads": ("pickle", "loads", "{source}"),
    "marshal.loads": ("marshal", "loads", "{source}"),
    "torch.load": ("torch", "load", "{canary}"),
    "torch.hub.load": ("torch.hub", "load", "{canary}", "model"),
    "torch.jit.load": ("torch.jit", "load", "{canary}"),
    "torch.inductor": ("torch._inductor.codecache", "compile_file", "{touch}"),
    "numpy.load": ("numpy", "load", "{canary}"),
    "numpy.f2py": ("numpy.f2py.crackfortran", "getlincoef", "{source}"),
    "numpy.testing": ("numpy.testing._private.utils", "runstring", "{source}"),
    "shutil.rmtree": ("shutil", "rmtree", "{canary}"),
    "ctypes": ("ctypes", "CDLL", "libc.so.6"),
    "socket": ("socket", "create_connection", "localhost"),
    "module-beside-the-file": ("probes_canary_module", "anything"),
    "dotted-OrderedDict": ("collections", "OrderedDict.fromkeys.__self__"),
    "dotted-globals": ("collections", "OrderedDict.__init__.__globals__"),
    "dotted-sys": ("collections", "_sys.modules"),
    "dotted-persistence": ("torch_utils.persistence", "_reconstruct_persistent_obj.__globals__"),
    "dotted-dtype": ("numpy", "dtype.__class__"),
    "allowed-module-other-name": ("torch._utils", "_import_dotted_name", "os.system"),
    "storage-other-name": ("torch.storage", "sys"),
    "codecs-lookup": ("_codecs", "lookup", "idna"),
    "space-in-name": ("collections OrderedDict", ""),
}


# --- pickles that hide it ----------------------------------------------------------------------------------------


def nested(place: str):
    def forge(canary: Path) -> bytes:
        bomb = run(canary)
        with make_pickles.nvidia_modules() as nvidia:
            if place == "persistence-state":
                network = make_pickles.Persistent("Generator", z_dim=bomb)
                return pickle.dumps({"G_ema": network}, protocol=4)
            if place == "tensorflow-state":
                network = nvidia["Network"]()
                network.version, network.variables = 4, [("dlatent_avg", bomb)]
                return pickle.dumps((None, None, network), protocol=4)
            values = {
                "dict": {"G_ema": bomb},
                "list": [[1, [bomb]]],
                "key": {(1, 2): {"x": (bomb,)}},
                "EasyDict": nvidia["EasyDict"](kwargs=bomb),
                "OrderedDict": collections.OrderedDict(a=bomb),
                "object-array": {"G_ema": np.array([bomb, None], dtype=object)},
            }
            return pickle.dumps(values[place], protocol=4)

    return forge


def hostile_source(canary: Path) -> bytes:
    """A valid snapshot whose every `module_src` makes the canary when executed, as the original executes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_pickles, "MODULE_SRC", source(canary))
        return make_pickles.ada_pickle(random_state(TINY), TINY)


def storage(inner: bytes) -> bytes:
    load = name("torch.storage", "_load_from_bytes")
    return P4 + call(load, b"B" + struct.pack("<I", len(inner)) + inner) + b"."


def torch_file(value: Any, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


HEADER = b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


def legacy(identifier: bytes, rest: bytes = b"") -> bytes:
    return HEADER + b"\x80\x02" + identifier + b"Q." + rest


def storage_id(kind: bytes = b"ctorch\nFloatStorage\n", numel: int = 4) -> bytes:
    return b"(" + text("storage") + kind + text("0") + text("cpu") + number(numel) + b"Nt"


KEYS = pickle.dumps(["0"], protocol=2)
GOOD = legacy(storage_id(), KEYS + struct.pack("<q4f", 4, 1, 2, 3, 4))


def tensor(offset: bytes, size: bytes, stride: bytes, inner: bytes = GOOD) -> bytes:
    made = storage(inner)[2:-1]
    empty = name("collections", "OrderedDict") + b")R"
    return P4 + call(name("torch._utils", "_rebuild_tensor_v2"), made, offset, size, stride, b"\x89", empty) + b"."


def shape(*sizes: int) -> bytes:
    return b"(" + b"".join(map(number, sizes)) + b"t"


def array(code: str, sizes: bytes, data: bytes, state: bytes | None = None) -> bytes:
    made = call(name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray"), shape(0), b"C\x01b")
    kind = call(name("numpy", "dtype"), text(code), b"\x89", b"\x88")
    kind += (state or b"(" + number(3) + text("<") + b"NNN" + number(-1) * 2 + number(0) + b"t") + b"b"
    return P4 + made + b"(" + number(1) + sizes + kind + b"\x89" + data + b"tb."


NETWORK = name("dnnlib.tflib.network", "Network") + b")\x81"
DICT = name("collections", "OrderedDict")
FOUR = b"C\x04\0\0\0\0"
HIDDEN = {f"inside-{place}": nested(place) for place in ("dict", "list", "key", "EasyDict", "OrderedDict")}
HIDDEN |= {f"inside-{place}": nested(place) for place in ("persistence-state", "tensorflow-state", "object-array")}
HIDDEN |= {
    "os.system-via-reduce": lambda canary: pickle.dumps(run(canary), protocol=4),
    "storage-legacy": lambda canary: storage(torch_file({"x": run(canary)}, zipped=False)),
    "storage-zip": lambda canary: storage(torch_file({"x": run(canary)}, zipped=True)),
    "storage-plain-pickle": lambda canary: storage(pickle.dumps(run(canary), protocol=2)),
    "storage-in-sysinfo": lambda canary: storage(
        b"".join(pickle.dumps(p, protocol=2) for p in (0x1950A86A20F9469CFC6C, 1001, run(canary)))
    ),
    "storage-type": lambda canary: storage(legacy(storage_id(b"cposix\nsystem\n"), KEYS)),
    "storage-keys": lambda canary: storage(legacy(storage_id(), pickle.dumps([run(canary)], protocol=2))),
    "storage-module": lambda canary: storage(HEADER + b"\x80\x02(" + text("module") + name("os", "system") + b"NNtQ."),
    "INST": lambda canary: b"\x80\x02(" + text(touch(canary)) + b"ios\nsystem\n.",
    "OBJ": lambda canary: b"\x80\x02(cos\nsystem\n" + text(touch(canary)) + b"o.",
    "INST-of-an-allowed-name": lambda canary: b"\x80\x02(icollections\nOrderedDict\n.",
    "OBJ-of-an-allowed-name": lambda canary: b"\x80\x02(ccollections\nOrderedDict\no.",
    "NEWOBJ_EX": lambda canary: P4 + name("collections", "OrderedDict") + b")}\x92.",
    "NEWOBJ-of-function": lambda canary: P4 + name("torch.storage", "_load_from_bytes") + b")\x81.",
    "NEWOBJ-with-arguments": lambda canary: P4 + name("dnnlib.tflib.network", "Network") + b"N\x85\x81.",
    "EXT1": lambda canary: b"\x80\x02\x82\x01.",
    "EXT2": lambda canary: b"\x80\x02\x83\x01\x00.",
    "EXT4": lambda canary: b"\x80\x02\x84\x01\x00\x00\x00.",
    "persistent-id": lambda canary: P4 + text(touch(canary)) + b"Q.",
    "persistent-id-text": lambda canary: b"\x80\x02Pos.system\n.",
    "next-buffer": lambda canary: b"\x80\x05\x97.",
    "protocol-0": lambda canary: b"\x80\x00" + pickle.dumps({"a": 1.5}, protocol=0),
    "call-a-string": lambda canary: P4 + text("os.system") + text(touch(canary)) + b"\x85R.",
    "call-a-record": lambda canary: P4 + NETWORK + b")R.",
    "call-what-a-call-returned": lambda canary: P4 + call(name("collections", "OrderedDict")) + b")R.",
    "global-name-computed": lambda canary: P4 + text("os") + b"C\x06system\x93.",
    "build-class": lambda canary: P4 + NETWORK + b"}" + text("__class__") + name("collections", "OrderedDict") + b"sb.",
    "build-dict": lambda canary: P4 + NETWORK + b"}" + text("__dict__") + b"}sb.",
    "build-setstate": lambda canary: P4 + NETWORK + b"}" + text("__setstate__") + NETWORK + b"sb.",
    "build-slots": lambda canary: P4 + NETWORK + b"}}" + text("state") + text("x") + b"s\x86b.",
    "build-a-standin": lambda canary: P4 + DICT + b"}" + text("call") + text("x") + b"sb.",
    "build-a-dict": lambda canary: P4 + DICT + b")R}" + text("a") + text("b") + b"sb.",
    "build-a-list": lambda canary: P4 + b"]}b.",
    "build-a-tensor": lambda canary: tensor(number(0), shape(4), shape(1))[:-1] + b"}" + text("data") + b"Nsb.",
    "build-twice": lambda canary: P4 + NETWORK + (b"}" + text("version") + number(4) + b"sb") * 2 + b".",
    "persistence-dunder": lambda canary: (
        P4
        + call(
            name("torch_utils.persistence", "_reconstruct_persistent_obj"),
            b"}(" + text("type") + text("class") + text("class_name") + text("Generator") + text("state") + b"}"
            + text("__class__") + text("x") + b"su",
        )
        + b"."
    ),
    "persistence-of-a-function": lambda canary: P4 + call(
        name("torch_utils.persistence", "_reconstruct_persistent_obj"), b"}" + text("type") + text("func") + b"s"
    ) + b".",
    "append-to-a-record": lambda canary: P4 + NETWORK + b"Na.",
    "setitem-on-a-list": lambda canary: P4 + b"]" + number(0) + b"Ns.",
    "unhashable-key": lambda canary: P4 + b"}]Ns.",
    "deep-key": lambda canary: P4 + b"})" + b"\x85" * 200_000 + b"Ns.",
    "object-dtype": lambda canary: array("O8", shape(1), FOUR),
    "void-dtype": lambda canary: array("V4", shape(1), FOUR),
    "structured-dtype": lambda canary: array(
        "f4", shape(1), FOUR, b"(" + number(3) + text("<") + b"N" + text("a") + b"\x85}" + number(4) * 3 + b"t"
    ),
    "array-of-objects": lambda canary: array("f4", shape(1), b"]Na"),
    "array-too-large": lambda canary: array("f4", shape(1 << 40), FOUR),
    "array-negative": lambda canary: array("f4", shape(-1, -1), FOUR),
    "array-overflowing": lambda canary: array("f4", shape(1 << 33, 1 << 33), FOUR),
    "scalar-object": lambda canary: P4 + call(
        name("numpy._core.multiarray", "scalar"), call(name("numpy", "dtype"), text("O8"), b"\x89", b"\x88"), FOUR
    ) + b".",
    "reconstruct-a-subclass": lambda canary: P4 + call(
        name("numpy._core.multiarray", "_reconstruct"), name("collections", "OrderedDict"), shape(0), b"C\x01b"
    ) + b".",
    "codec": lambda canary: P4 + call(name("_codecs", "encode"), text("x"), text("zlib_codec")) + b".",
    "tensor-offset": lambda canary: tensor(number(1), shape(4), shape(1)),
    "tensor-offset-negative": lambda canary: tensor(number(-1), shape(4), shape(1)),
    "tensor-stride": lambda canary: tensor(number(0), shape(2, 2), shape(3, 1)),
    "tensor-stride-negative": lambda canary: tensor(number(3), shape(4), shape(-1)),
    "tensor-expanded": lambda canary: tensor(number(0), shape(1 << 40), shape(0)),
    "tensor-overflow": lambda canary: tensor(number(0), shape(1 << 33, 1 << 33), shape(0, 0)),
    "tensor-size-negative": lambda canary: tensor(number(0), shape(-2, -2), shape(1, 1)),
    "tensor-without-storage": lambda canary: P4 + call(
        name("torch._utils", "_rebuild_tensor_v2"), b"N", number(0), shape(4), shape(1), b"\x89", b"N"
    ) + b".",
    "parameter-of-a-string": lambda canary: P4 + call(name("torch._utils", "_rebuild_parameter"), b"NNN") + b".",
    "dict-from-a-list": lambda canary: P4 + call(name("collections", "OrderedDict"), b"]") + b".",
}  # fmt: skip
CORPUS = {**{key: global_call(*spec) for key, spec in CALLS.items()}, **HIDDEN}
WATCHED = ("webbrowser", "runpy", "pty", "timeit", "code", "bdb", "probes_canary_module", "torch_utils", "dnnlib", "nt")


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """A canary, and a module that makes it when imported; checks afterwards that nothing was run or imported."""
    canary = tmp_path / "canary"
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "probes_canary_module.py").write_text(source(canary))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    for module in WATCHED:
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield canary
    assert not canary.exists(), "the pickle ran code"
    assert not [module for module in WATCHED if module in sys.modules], "the pickle imported a module"


@pytest.mark.parametrize("case", CORPUS)
def test_refused_without_running_anything(case, watch, tmp_path):
    data = CORPUS[case](watch)
    for module in WATCHED:
        sys.modules.pop(module, None)
    path = tmp_path / "hostile.pkl"
    path.write_bytes(data)
    with pytest.raises(UnsafePickleError, match=r"hostile\.pkl.*Nothing of it was run") as caught:
        read_checkpoint(path)
    assert len(str(caught.value)) < 1000
    if case in CALLS:
        module, attribute = CALLS[case][:2]
        assert attribute in str(caught.value) and module in str(caught.value)
    with pytest.raises(CheckpointError):
        convert(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_source_code_in_a_real_snapshot_is_never_run(tmp_path):
    path, canary = tmp_path / "network.pkl", tmp_path / "canary"
    path.write_bytes(hostile_source(canary))
    assert source(canary).encode() in path.read_bytes()
    assert read_checkpoint(path).family == "stylegan2" and not canary.exists()


@pytest.mark.parametrize("case", ["os.system", "exec", "inside-dict", "storage-legacy", "storage-zip", "INST", "OBJ"])
def test_the_corpus_is_not_toothless(case, tmp_path):
    """Plain pickle, in a process of its own, runs what the restricted reader refuses."""
    canary = tmp_path / "canary"
    (tmp_path / "hostile.pkl").write_bytes(CORPUS[case](canary))
    script = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "hostile.pkl")], capture_output=True, timeout=120)
    assert canary.exists()


LARGE = legacy(storage_id(numel=100_000), KEYS + struct.pack("<q", 100_000) + bytes(400_000))
BOMBS = {
    "memo-index": P4 + b"Nr\xff\xff\xff\xff.",
    "bytes8": P4 + b"\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "unicode8": P4 + b"\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "bytearray8": b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"x.",
    "frame": P4 + b"\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "long4": P4 + b"\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"x.",
    "marks": P4 + b"(" * 200_000 + b".",
    "nested-lists": P4 + b"]" * 100_000 + b"a" * 99_999 + b".",
    "nested-tuples": P4 + b")" + b"\x85" * 200_000 + b".",
    "storage-size": storage(legacy(storage_id(numel=1 << 45), KEYS + struct.pack("<q", 1 << 45))),
    "storage-repeated": P4 + b"B" + struct.pack("<I", len(LARGE)) + LARGE + b"\x940]("
    + (name("torch.storage", "_load_from_bytes") + b"h\x00\x85R") * 2_000 + b"e.",
    "encoded-repeated": P4 + text("x" * 100_000) + b"\x940]("
    + (name("_codecs", "encode") + b"h\x00" + text("latin1") + b"\x86R") * 5_000 + b"e.",
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_end_in_an_error_and_little_memory(case, tmp_path):
    path = tmp_path / "bomb.pkl"
    path.write_bytes(BOMBS[case])
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"bomb\.pkl"):
            read_checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * len(BOMBS[case]) + 20_000_000


def twin_records(depth: int) -> bytes:
    """Records that each hold the one below twice: 2^depth paths in a few kilobytes."""
    linear = name("torch.nn.modules.linear", "Linear")
    data = P4 + linear + b")\x81\x940"
    for level in range(depth):
        below = b"h" + bytes([level])
        modules = b"}(" + text("a") + below + text("b") + below + b"u"
        data += linear + b")\x81\x94}" + text("_modules") + modules + b"sb0"
    return data


def test_structures_that_unfold_without_end_are_refused(tmp_path):
    path = tmp_path / "network.pkl"
    depth = 15
    body = twin_records(depth)[2:]
    path.write_bytes(P4 + body + b"}" + text("G_ema") + b"h" + bytes([depth]) + b"s.")
    with pytest.raises(CheckpointError, match="more than 20000 modules"):
        read_checkpoint(path)
    looped = (
        NETWORK + b"\x94}" + text("components") + b"}" + text("x") + b"h\x00ss" + text("version") + number(4) + b"sb"
    )
    path.write_bytes(P4 + b"NN" + looped + b"\x87.")
    with pytest.raises(CheckpointError, match="nested"):
        read_checkpoint(path)


def test_random_damage_never_escapes_as_another_error(tmp_path):
    """Flipped bytes give a checkpoint or our error, never anything else."""
    rng = np.random.RandomState(0)
    for forge in (make_pickles.ada_pickle, make_pickles.tensorflow_pickle):
        original = forge(random_state(TINY), TINY)
        for _ in range(60):
            data = bytearray(original)
            for position in rng.randint(2, len(data), rng.randint(1, 200)):
                data[position] = rng.randint(256)
            (tmp_path / "damaged.pkl").write_bytes(data)
            try:
                read_checkpoint(tmp_path / "damaged.pkl")
            except CheckpointError as error:
                assert "damaged.pkl" in str(error)
