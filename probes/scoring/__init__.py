"""`probes evaluate --data`: any predictor against the maps of a dataset, by several protocols side by side."""

from ._score import Scored as Scored
from ._score import score as score
