"""Studies: grids of fits, each with a question, and what is concluded from their rows.

    import probes
    probes.study("fid", small=True).verdict          # or: probes study fid --small true

A study of your own is a subclass of Study and one call of `register_study`.
"""

from . import _fid as _fid  # these nine register themselves
from . import _labels as _labels
from . import _left as _left
from . import _methods as _methods
from . import _random as _random
from . import _rank as _rank
from . import _sites as _sites
from . import _steps as _steps
from . import _teacher_truth as _teacher_truth
from ._base import Cell as Cell
from ._base import Study as Study
from ._base import StudyError as StudyError
from ._engines import ENGINES as ENGINES
from ._engines import Engine as Engine
from ._findings import findings as findings
from ._points import Point as Point
from ._points import points as points
from ._registry import get_study as get_study
from ._registry import register_study as register_study
from ._registry import studies as studies
from ._run import Outcome as Outcome
from ._run import grid as grid
from ._run import study as study
from ._statistics import Correlation as Correlation
from ._statistics import pearson as pearson
from ._statistics import spearman as spearman
from ._verdict import Asked as Asked
from ._verdict import Verdict as Verdict
from ._verdict import decide as decide
