"""Peak memory of a process, as the system counts it."""
from __future__ import annotations

import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path


def forget_peak() -> None:
    """The peak resident size is from now on that since now. Does nothing where the system has no way to say so."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> float:
    """Peak resident size of this process, MiB."""
    # Not getrusage's where it can be helped: on Linux a child starts with the peak that its parent had.
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def tight() -> dict[str, str]:
    """The environment of a process that is to be measured: glibc gives large blocks back; otherwise what is counted is in part
    the holes that it keeps between them."""
    return {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
