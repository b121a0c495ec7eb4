"""Images for generators that are driven by images, and what is known about them exactly."""

from ._base import Data as Data
from ._base import default_data as default_data
from ._base import get_data as get_data
from ._base import known_data as known_data
from ._base import register_data as register_data
