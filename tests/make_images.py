"""Photographs and files of them, made to be read: noise, smooth colours, 16-bit PNG, every kind of TIFF, colour profiles."""
from __future__ import annotations

import struct

import numpy as np
import torch

from probes.images import Photo
from probes.images._png import write_png

H, W = 18, 26


def noise(*shape: int, bits: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**bits, shape, dtype=np.uint8 if bits == 8 else np.uint16)


def codes(photo: Photo, bits: int = 8) -> np.ndarray:
    """The integers [H, W, 3] that a photo's pixels stand for; fails if they lie between integers."""
    exact = (photo.pixels.double().numpy().transpose(1, 2, 0) + 1) * (2**bits - 1) / 2
    assert np.abs(exact - exact.round()).max() < 0.01
    return exact.round().astype(int)


def smooth(height: int, width: int) -> torch.Tensor:
    """[3, H, W] in [-1, 1], without frequencies that a resampling could lose."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    return torch.stack([torch.sin(x + y), torch.cos(x) * 0.8, torch.sin(y * 2) * 0.5])


def png16(path, array: np.ndarray, extra: dict | None = None) -> None:
    with open(path, "wb") as file:
        write_png(file, [array], *array.shape, 16, extra)


def tiff(array: np.ndarray, order: str = "<", photometric: int | None = None, planar: bool = False,
         orientation: int = 1, twelve: bool = False) -> bytes:
    """A baseline TIFF of one uncompressed strip (one a channel if planar), 8 or 16 bits, or 12 of the given 16."""
    height, width, channels = array.shape
    stored = array.transpose(2, 0, 1) if planar else array
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    bits = array.dtype.itemsize * 8
    if twelve:
        first, second = array.reshape(-1, 2).T.astype(int)
        data = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
        bits = 12
    part = len(data) // channels
    photometric = photometric if photometric is not None else 2 if channels > 1 else 1
    count = channels if planar else 1
    entries = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [1]), (262, 3, [photometric]),
               (273, 4, [8 + i * part for i in range(count)]), (274, 3, [orientation]), (277, 3, [channels]),
               (278, 4, [height]), (279, 4, [len(data) // count] * count), (284, 3, [2 if planar else 1])]
    entries += [(338, 3, [2])] if channels == 4 else []
    start, table, far = 8 + len(data), b"", b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        packed = struct.pack(f"{order}{len(values)}{'HI'[kind == 4]}", *values)
        if len(packed) > 4:
            packed, far = struct.pack(order + "I", after + len(far)), far + packed
        table += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + data + struct.pack(order + "H", len(entries)) + table + struct.pack(order + "I", 0) + far


def icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal version-4 display profile."""
    body, table, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    white = struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    head = struct.pack(">I4sI4s4s4s12s4s4sI4s4sQI", offset + len(body), b"", 0x04000000, b"mntr", space, b"XYZ ", b"\0" * 12,
                       b"acsp", b"", 0, b"", b"", 0, 0) + white
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def curve(gamma: float, *rest: float) -> bytes:
    values = (gamma, *rest)
    return b"para\0\0\0\0" + struct.pack(">HH", 3 if rest else 0, 0) + struct.pack(f">{len(values)}i",
                                                                                  *(round(v * 65536) for v in values))


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(v * 65536) for v in values))


def rgb_profile(red: int = 0, green: int = 1) -> bytes:
    """sRGB, its primaries in another order if asked: what is called red may then be green."""
    primaries = [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]
    srgb = curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return icc(b"RGB ", {b"wtpt": xyz(0.9642, 1, 0.8249), b"rXYZ": xyz(*primaries[red]), b"gXYZ": xyz(*primaries[green]),
                         b"bXYZ": xyz(*primaries[2]), b"rTRC": srgb, b"gTRC": srgb, b"bTRC": srgb})
