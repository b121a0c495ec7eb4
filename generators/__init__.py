"""Frozen generators behind one interface: `load("stylegan2-scenes")`, `load("ffhq.pkl")`, `catalog()`."""

from ._base import Generator as Generator
from ._base import State as State
from ._catalog import Entry as Entry
from ._catalog import card as card
from ._catalog import catalog as catalog
from ._catalog import load as load
from ._names import UnknownNameError as UnknownNameError
