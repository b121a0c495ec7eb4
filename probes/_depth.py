"""Depth as an image in [-1, 1] and back: named encodings, because papers differ here more than anywhere else.

| encoding | what it takes | image | decodes to |
| --- | --- | --- | --- |
| log | metres | logarithm, between near and far | metres |
| linear | metres | depth, between near and far | metres |
| disparity | metres | inverse depth, between near and far; near is bright | metres |
| relative | any depth | between an image's nearest and farthest point, as in the paper's released code | [0, 1], 1 farthest |
| percentile | any depth | between an image's 2nd and 98th percentile, as in Marigold (arXiv 2312.02145) | [0, 1], 1 farthest |
| inverse | affine-invariant disparity (MiDaS, Depth Anything) | between its 2nd and 98th percentile | [0, 1], 1 nearest |

The first three know metres; the others keep an image's depth up to a scale and a shift, in depth or in disparity, which is
what `meaning` tells: "metric", "relative" or "disparity". Pixels without a value (NaN) have no part in an image's range and
stay without one.
"""
from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from generators._names import unknown

from ._quantiles import quantiles

OPTIONS = dict(encoding="linear", near=0.8, far=9.0)     # chosen by measurement: RESULTS.md
MEANINGS = {"log": "metric", "linear": "metric", "disparity": "metric", "relative": "relative", "percentile": "relative",
            "inverse": "disparity"}
DESCRIPTIONS = {"metric": "z-depth in metres", "relative": "z-depth, 0 at an image's nearest point and 1 at its farthest",
                "disparity": "inverse depth, 0 at an image's farthest point and 1 at its nearest"}
PROTOCOLS = {"relative": "depth-minmax", "percentile": "depth-relative", "inverse": "depth-relative"}      # else: in metres
_ENDS = (0.02, 0.98)


def check(options: dict) -> None:
    """Raises UnknownNameError for another encoding, ValueError for a range that is none."""
    encoding, near, far = options["encoding"], options["near"], options["far"]
    if encoding not in MEANINGS:
        raise unknown("encoding", encoding, MEANINGS)
    if MEANINGS[encoding] == "metric" and not 0 < near < far:
        raise ValueError(f"encoding: depth between near={near} and far={far} metres; expected 0 < near < far, for instance "
                         f"near={OPTIONS['near']}, far={OPTIONS['far']}")


def parse(wanted: str | None) -> dict:
    """"linear,near=0.5,far=40" -> its options. Raises ValueError for what is none of these."""
    if wanted is None:
        return {}
    name, *pairs = wanted.split(",")
    found: dict = dict(encoding=name)
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            if key not in ("near", "far"):
                raise ValueError
            found[key] = float(value)
        except ValueError:
            raise ValueError(f"encoding: expected NAME, or NAME,near=METRES,far=METRES, got {wanted!r}; for instance "
                             "linear,near=0.5,far=40") from None
    return found


def outside(depth: Tensor, options: dict) -> float:
    """The share of the valid pixels that an encoding cannot hold, since they are nearer than `near` or farther than `far`."""
    if MEANINGS[options["encoding"]] != "metric":
        return 0.0
    known = depth[~depth.isnan()]
    slack = 1e-4 * options["far"]
    beyond = (known < options["near"] - slack) | (known > options["far"] + slack)
    return beyond.float().mean().item() if known.numel() else 0.0


def chosen(options: dict, own: Collection[str], suggested: dict, wanted: str | None, meaning: str) -> dict:
    """The options of a fit: what was asked for first, then what the intrinsic was given, then what the teacher suggests.

    Args:
        options: of the intrinsic
        own: those of them that whoever made it chose
        suggested: by the teacher
        wanted: an encoding as the user of a fit writes it (see `parse`), or None
        meaning: of the teacher's depth

    Raises ValueError for an encoding that such depth does not have.
    """
    taken = {**options, **suggested, **{name: options[name] for name in own}, **parse(wanted)}
    check(taken)
    possible = [name for name, means in MEANINGS.items() if meaning == "metric" and means != "disparity" or means == meaning]
    if taken["encoding"] not in possible:
        raise ValueError(f"encoding: {taken['encoding']} cannot hold the depth of this teacher, which is {meaning}; choose of "
                         f"{', '.join(possible)}")
    return taken


def encode(depth: Tensor, options: dict) -> Tensor:
    """[N, 1, H, W], of the meaning that the encoding takes -> [N, 1, H, W] in [-1, 1]."""
    encoding = options["encoding"]
    if MEANINGS[encoding] == "metric":
        low, high = (_scaled(end, encoding) for end in (options["near"], options["far"]))
        x = _scaled(depth.clamp(options["near"], options["far"]), encoding)
        x = (x - low) / (high - low)
        return (1 - x if encoding == "disparity" else x) * 2 - 1
    low, high = _ends(depth, encoding)
    return ((depth - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) * 2 - 1


def decode(image: Tensor, options: dict) -> Tensor:
    """What a head emitted, [N, 3, H, W] -> [N, 1, H, W]: metres, or [0, 1]."""
    encoding = options["encoding"]
    x = (image.mean(1, keepdim=True).clamp(-1, 1) + 1) / 2
    if MEANINGS[encoding] != "metric":
        return x
    x = 1 - x if encoding == "disparity" else x
    low, high = (_scaled(end, encoding) for end in (options["near"], options["far"]))
    x = x * (high - low) + low
    return {"log": torch.exp, "linear": torch.clone, "disparity": torch.reciprocal}[encoding](x)


def _scaled(x, encoding: str):
    """The scale on which an encoding is linear: metres, their logarithm or their inverse."""
    if encoding == "disparity":
        return 1 / x
    if encoding == "log":
        return x.log() if isinstance(x, Tensor) else math.log(x)
    return x


def _ends(depth: Tensor, encoding: str) -> tuple[Tensor, Tensor]:
    """An image's own range, [N, 1, 1, 1] each, over the pixels that have a value; NaN where none has."""
    flat = depth.float().flatten(1)
    if encoding == "relative":
        missing = flat.isnan()
        ends = torch.where(missing, torch.inf, flat).amin(1), torch.where(missing, -torch.inf, flat).amax(1)
    else:
        ends = quantiles(flat, _ENDS)
    return tuple(end[:, None, None, None] for end in ends)
