"""The compiled implementations: what each needs, and how it is built: on first use, once, by one process at a time.

Builds live where torch keeps its extensions (``TORCH_EXTENSIONS_DIR``, else its default), in a folder named by a hash
of the sources, the torch version, the compiler flags and the GPU architectures: a stale build is never picked up.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from ._native import Native

CSRC = Path(__file__).with_name("csrc")
_CXX_FLAGS = ["-O3", "-Wno-unknown-pragmas"]
_OPENMP = ["-fopenmp"] if sys.platform.startswith("linux") else []


class Extension:
    """One compiled implementation, ``cpu`` or ``cuda``; nothing is looked up or compiled before it is asked for."""

    def __init__(self, device: str, sources: tuple[str, ...]):
        self.device = device
        self.sources = sources
        self._lock = threading.Lock()
        self._native: Native | None = None
        self._failure: str | None = None

    @property
    def loaded(self) -> bool:
        return self._native is not None

    @property
    def failure(self) -> str | None:
        """Why the last attempt to load it failed; None before any."""
        return self._failure

    def missing(self) -> str | None:
        """What this machine lacks to build it, or None. Looks only; never compiles."""
        from torch.utils import cpp_extension

        if self.device == "cuda":
            if torch.version.cuda is None:
                return f"torch {torch.__version__} is built without CUDA"
            if not torch.cuda.is_available():
                return "no CUDA device"
            if cpp_extension.CUDA_HOME is None or not shutil.which(os.path.join(cpp_extension.CUDA_HOME, "bin", "nvcc")):
                return "nvcc not found: install the CUDA toolkit or set CUDA_HOME"
        if shutil.which(compiler()) is None:
            return f"no C++ compiler: {compiler()} not found (set CXX)"
        with _ninja_on_path():
            if not cpp_extension.is_ninja_available():
                return "ninja not found: pip install ninja"
        return None

    def load(self) -> Native | None:
        """The implementation, built if need be; None if that failed, with the reason in `failure`. Tries once."""
        with self._lock:
            if self._native is None and self._failure is None:
                self._failure = self.missing()
                if self._failure is None:
                    try:
                        self._build()
                        self._native = Native(f"probes_{self.device}")
                    except Exception as error:  # compilers, linkers and loaders fail in every way there is
                        self._failure = f"building the extension failed: {first_error(str(error))}"
            return self._native

    def directory(self) -> Path:
        from torch.utils import cpp_extension

        parts = [torch.__version__, str(torch.version.cuda), *_CXX_FLAGS, *_OPENMP, os.environ.get("CXX", "")]
        parts += [sys.version, sys.platform, platform.machine()]
        if self.device == "cuda":
            devices = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
            parts += [os.environ.get("TORCH_CUDA_ARCH_LIST", ""), str(sorted(devices))]
        for path in sorted(CSRC.iterdir()):
            if path.is_file():
                parts += [path.name, path.read_text(encoding="utf-8")]
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
        return Path(root) / f"probes_ops_{self.device}_{key}"

    def built(self) -> bool:
        """Whether it lies compiled in the cache. Looks only."""
        return any((self.directory() / f"probes_ops_{self.device}{suffix}").exists() for suffix in (".so", ".pyd"))

    def _build(self) -> None:
        from torch.utils import cpp_extension

        folder = self.directory()
        folder.mkdir(parents=True, exist_ok=True)
        with _exclusive(folder / "probes.lock"), _ninja_on_path():
            (folder / "lock").unlink(missing_ok=True)  # torch's own, left by a killed build: load() would wait for ever
            cpp_extension.load(
                name=f"probes_ops_{self.device}", sources=[str(CSRC / source) for source in self.sources],
                extra_cflags=_CXX_FLAGS + (_OPENMP if self.device == "cpu" else []), extra_cuda_cflags=["-O3"],
                extra_ldflags=[*_OPENMP] if self.device == "cpu" else [], build_directory=str(folder),     # torch adds to it
                with_cuda=self.device == "cuda", is_python_module=False, verbose=False)


EXTENSIONS = {
    "cpu": Extension("cpu", ("ops_cpu.cpp",)),
    "cuda": Extension("cuda", ("ops_cuda.cpp", "upfirdn2d.cu", "bias_act.cu", "filtered_lrelu.cu")),
}


def compiler() -> str:
    return os.environ.get("CXX") or ("cl" if sys.platform == "win32" else "c++")


def version_line(*command: str) -> str | None:
    """The line of `command`'s output that carries a version number, or None if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line.strip() for line in done.stdout.splitlines() if re.search(r"\d+\.\d+", line)]
    return next((line for line in lines if "release" in line), lines[0] if lines else None)


def first_error(message: str) -> str:
    """The one line of a build log that says what went wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\berror\b[:\s]|not found|cannot find|No such file", line, re.I)]
    telling = [line for line in telling if not line.startswith("Error building extension")]
    return (telling or lines or ["no message"])[0][:300]


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a file lock: the second process waits for the first one's build and then finds it done."""
    with open(path, "w") as handle:
        try:
            import fcntl
        except ImportError:  # Windows: torch's own lock file has to do
            yield
            return
        fcntl.flock(handle, fcntl.LOCK_EX)  # released with the file, also when the process is killed
        yield


@contextlib.contextmanager
def _ninja_on_path() -> Iterator[None]:
    """The ninja that pip installed, also where its environment is not activated."""
    if shutil.which("ninja"):
        yield
        return
    try:
        import ninja
    except ImportError:
        yield
        return
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, before])
    try:
        yield
    finally:
        os.environ["PATH"] = before
