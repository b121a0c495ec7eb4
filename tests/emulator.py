"""CUDA sources as C++: blocks and threads run by the emulator that stands in the headers of csrc."""
import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "generators" / "ops" / "csrc"


def compiled(library: Path, *sources: str) -> ctypes.CDLL:
    """The sources of csrc, compiled without a warning; skips the test where no compiler can."""
    command = ["c++", "-x", "c++", "-std=c++20", "-O1", "-DPROBES_EMULATE", "-fPIC", "-shared", "-pthread", "-Wall",
               "-Wno-unknown-pragmas", *(str(CSRC / source) for source in sources), "-o", str(library)]
    if shutil.which(command[0]) is None:
        pytest.skip("no C++ compiler")
    done = subprocess.run(command, capture_output=True, text=True)
    if "barrier: No such file" in done.stderr:
        pytest.skip("the C++ compiler is older than C++20's <barrier>")
    assert done.returncode == 0 and not done.stderr, done.stderr
    return ctypes.CDLL(str(library))
