"""Parts of a network that are not needed for a while, out of the way: off the accelerator, or out of resident memory."""
from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ._files import cache_folder

LEAST = 1 << 26     # bytes; below, it is not worth a file


@contextmanager
def aside(parts: Sequence[nn.Module], least: int = LEAST) -> Iterator[None]:
    """Within the block the weights of `parts` do not stand in the memory in which the steps run.

    On an accelerator they wait in main memory, and are back on it behind the block. On the CPU they move into a file without
    a name, mapped, and stay mapped: page by page they come back when they are used next, within the block too. Weights that a
    checkpoint's file is mapped for are there already. Less than `least` bytes stay as they are, and so do those for whose
    file there is no room.
    """
    parameters = list({id(p): p for part in parts for p in (*part.parameters(), *part.buffers())}.values())
    if sum(p.numel() * p.element_size() for p in parameters) < least:
        yield
        return
    devices = {p.device for p in parameters}
    if devices == {torch.device("cpu")}:
        try:
            _to_file(parameters)
        except OSError:             # no room: they stay in memory
            pass
        yield
        return
    homes = [(part, next(part.parameters()).device) for part in parts]
    try:
        for part in parts:
            nn.Module.to(part, "cpu")       # diffusers' own warns of what does not happen here
        yield
    finally:
        for part, device in homes:
            nn.Module.to(part, device)


def _to_file(parameters: Sequence[torch.Tensor]) -> None:
    """Raises OSError; nothing has moved then."""
    regions = _regions()
    parameters = [p for p in parameters if p.numel() and p.is_contiguous() and getattr(p, "_aside", None) != p.data_ptr()
                  and not any(start <= p.data_ptr() < stop for start, stop in regions)]
    if not parameters:
        return
    folder = cache_folder("aside")          # the usual one for temporary files is memory on many systems
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        starts = []
        for p in parameters:
            starts.append(file.seek(-file.tell() % 64, os.SEEK_CUR))
            file.write(p.detach().view(-1).view(torch.uint8).numpy())
        file.flush()
        whole = np.memmap(file, mode="c")       # private: what is written to a weight does not reach the file
    for p, start in zip(parameters, starts, strict=True):
        raw = torch.from_numpy(whole[start:start + p.numel() * p.element_size()])
        p.data = raw.view(p.dtype).view(p.shape)
        p._aside = p.data_ptr()


def _regions() -> list[tuple[int, int]]:
    """Addresses [start, stop) of this process's memory that files are mapped for; empty where the system does not say."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    fields = [line.split(maxsplit=5) for line in lines]
    return [(int(start, 16), int(stop, 16)) for where, _, _, _, inode, *_ in fields if inode != "0"
            for start, stop in [where.split("-")]]
