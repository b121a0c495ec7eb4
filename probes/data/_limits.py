"""How large an array in a file may be: what a header claims is weighed before memory is taken for it."""
from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from ..images import ImageError

_CHANNELS = 3


def check_numbers(shape: Sequence[int], name: str) -> None:
    """Raises ImageError for more numbers than an RGB image of the largest size that is read has: three for each pixel of
    twice PIL.Image.MAX_IMAGE_PIXELS, the limit of `probes.images`; without that there is none."""
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and math.prod(int(side) for side in shape) > 2 * most * _CHANNELS:
        raise ImageError(f"{name}: an array of shape {list(shape)} has more than {2 * most * _CHANNELS / 1e6:.0f} million "
                         "numbers, the limit against files made to exhaust the memory; if you trust it, raise "
                         "PIL.Image.MAX_IMAGE_PIXELS first, or make it smaller")
