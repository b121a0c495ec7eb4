"""Images, and what is known about them: for generators that are driven by images, and to score against.

A dataset is one module with a `Data` (or a `Photographs`, where it is files) and one registration.
"""

from ._base import Data as Data
from ._base import Reader as Reader
from ._base import default_data as default_data
from ._base import get_data as get_data
from ._base import known_data as known_data
from ._base import register_data as register_data
from ._base import register_reader as register_reader
from ._builtin import register as _register
from ._photographs import Photographs as Photographs
from ._resize import resize_map as resize_map
from ._resize import valid as valid
from ._sample import Camera as Camera
from ._sample import Sample as Sample

_register()
