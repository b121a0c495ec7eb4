"""`probes label`: what a teacher says about images, kept as a folder that anybody can use."""

from ._label import Labelled as Labelled
from ._label import label as label
