"""Contact sheets: one row a sample, one labelled column a map, large enough to be looked at."""
from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .._files import write_bytes_atomically

_TILE = 192  # pixels a tile is enlarged to at least
_LARGEST = 320  # and shrunk to at most
_PAPER, _INK, _FAINT = (255, 255, 255), (32, 36, 40), (104, 112, 120)


def sheet(columns: Mapping[str, Any], path: str | Path | None = None, captions: Sequence[str] | None = None,
          scale: float | None = None, note: str | None = None) -> bytes:
    """Draws a contact sheet and writes it as a PNG.

    Args:
        columns: label -> pictures [N, 3, H, W] (or 1 channel), tensor or array; float in [-1, 1] or uint8.
            Columns may differ in H and W, not in N
        path: where to write it, whole or not at all; None only returns it
        captions: one a row, at its left, such as "seed 7"; lines after a newline are set fainter
        scale: tile pixels per pixel of the first column; default enlarges to about 192 pixels, never shrinks below
            320
        note: a line under the sheet, such as what the colours mean

    Returns the PNG. Raises ValueError for arguments that do not fit together, OutputError when it cannot be written.
    """
    image = _draw(_check(columns, captions), captions, scale, note)
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    if path is not None:
        write_bytes_atomically(path, buffer.getvalue())
    return buffer.getvalue()


def _check(columns: Mapping[str, Any], captions: Sequence[str] | None) -> dict[str, np.ndarray]:
    if not columns:
        raise ValueError('columns: expected at least one, got none; try {"image": images}')
    arrays = {label: _to_bytes(value, label) for label, value in columns.items()}
    counts = {label: len(value) for label, value in arrays.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(f"columns: expected the same number of pictures in each, at least one, got {counts}")
    if captions is not None and len(captions) != next(iter(counts.values())):
        raise ValueError(f"captions: expected one a row ({next(iter(counts.values()))}), got {len(captions)}")
    return arrays


def _to_bytes(value: Any, label: str) -> np.ndarray:
    """[N, 3, H, W] -> uint8 [N, H, W, 3]."""
    if hasattr(value, "detach"):  # a tensor; bfloat16 has no numpy
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    value = np.asarray(value)
    if value.ndim != 4 or value.shape[1] not in (1, 3):
        raise ValueError(f"columns[{label!r}]: expected [N, 3, H, W], got shape {list(value.shape)}")
    if value.dtype != np.uint8:
        value = np.nan_to_num(value.astype(np.float32), nan=-0.55, posinf=1, neginf=-1)
        value = ((value.clip(-1, 1) + 1) * 127.5 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(value, (len(value), 3, *value.shape[2:])).transpose(0, 2, 3, 1))


def _draw(columns: dict[str, np.ndarray], captions: Sequence[str] | None, scale: float | None,
          note: str | None) -> Image.Image:
    first = next(iter(columns.values()))
    n, height, width = first.shape[:3]
    if scale is None:
        scale = ceil(_TILE / height) if height < _TILE else min(1.0, _LARGEST / height)
    tile_w, tile_h = max(1, round(width * scale)), max(1, round(height * scale))
    size = min(22, max(12, tile_w // 9))
    gap, margin = max(4, tile_w // 24), max(10, tile_w // 12)
    label_font, small = _font(size), _font(max(11, size - 3))

    captions = [str(c).split("\n") for c in captions or []]
    left = margin
    if captions:
        left += ceil(max((label_font if i == 0 else small).getlength(line)
                         for c in captions for i, line in enumerate(c))) + gap * 2
    labels = {label: _wrapped(label, label_font, tile_w) for label in columns}
    line = round(size * 1.3)
    top = margin + line * max(len(lines) for lines in labels.values()) + gap // 2
    right = left + len(columns) * (tile_w + gap) - gap
    notes = _wrapped(note, small, right - margin) if note else []
    bottom = top + n * (tile_h + gap) - gap + (gap * 2 + line * len(notes) if notes else 0)

    canvas = Image.new("RGB", (right + margin, bottom + margin), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for j, (label, pictures) in enumerate(columns.items()):
        x = left + j * (tile_w + gap)
        for i, text in enumerate(reversed(labels[label])):  # the last line sits on the tiles
            draw.text((x + tile_w / 2, top - gap - i * line), text, _INK, label_font, anchor="ms")
        for i in range(n):
            canvas.paste(_resized(pictures[i], (tile_w, tile_h)), (x, top + i * (tile_h + gap)))
    for i, lines in enumerate(captions):
        y = top + i * (tile_h + gap) + (tile_h - line * (len(lines) - 1)) / 2
        for k, text in enumerate(lines):
            draw.text((margin, y + k * line), text, _INK if k == 0 else _FAINT, label_font if k == 0 else small,
                      anchor="lm")
    for i, text in enumerate(notes):
        draw.text((margin, bottom - line * (len(notes) - i - 0.5)), text, _FAINT, small, anchor="lm")
    return canvas


def _resized(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Whole pixels for an enlargement by a whole factor, so that nothing is drawn that is not there; else Lanczos."""
    image = Image.fromarray(picture)
    whole = size[0] >= image.width and size[0] % image.width == 0 and size[1] % image.height == 0
    return image.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of whole words, each within `width` where a word is."""
    lines = [""]
    for word in str(text).split():
        joined = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(joined) > width:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: the same sheet on every machine."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
