"""What identifies a network's file: the sha256 of its content, read once for every version of the file.

Gigabytes take a while to read, so what was found is kept beside the project's other caches, by the file's place, size and
times. The hub's cache names large files by their content; that is compared, never believed.
"""
from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from generators._files import atomic, cache_folder, file_sha256
from generators.checkpoints import CheckpointError

KEPT = 1 << 20          # bytes: smaller files are read faster than looked up
_SHA256 = re.compile(r"[0-9a-f]{64}")


def digest(path: Path) -> str:
    """The file's sha256. Raises CheckpointError where the hub's cache names it by another."""
    real = path.resolve()
    stat = real.stat()
    found = _digest(real, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name) and found != real.name:
        raise CheckpointError(f"{path} is damaged, or somebody wrote to the hub's cache: its content has the sha256 {found}, "
                              f"its name there is {real.name}; delete {real} and call again")
    return found


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, *times: int) -> str:
    if size < KEPT:
        return file_sha256(path)
    key = hashlib.sha256(" ".join(map(str, (path, size, *times))).encode()).hexdigest()
    note = cache_folder("digests") / key
    with suppress(OSError, ValueError):
        if _SHA256.fullmatch(known := note.read_text().strip()):
            return known
    found = file_sha256(path)
    with suppress(OSError), atomic(note) as temporary:      # a cache that cannot be written costs time only
        temporary.write_text(found)
    return found
