"""Photographs in, maps out: reading what people have, fitting it to a network, and writing what the network says.

    gather(["photos/", "extra.tif"]) ─▶ paths ─▶ read_image ─▶ Photo   [3, H, W] in [-1, 1], upright, sRGB
    fit(photo, size=512) ─▶ Fitted.pixels ─▶ generator, probe ─▶ map ─▶ Fitted.restore ─▶ the photograph's own size
    write_map("out/photo", map, "normal", formats=("npy", "exr", "png16", "png"))
"""

from ._codes import MapError as MapError
from ._fit import POLICIES as POLICIES
from ._fit import Fitted as Fitted
from ._fit import fit as fit
from ._gather import gather as gather
from ._gather import stems as stems
from ._photo import ImageError as ImageError
from ._photo import Photo as Photo
from ._read import read_image as read_image
from ._write import FORMATS as FORMATS
from ._write import write_map as write_map
