"""Teachers Φ: image -> intrinsic map. What they say is pseudo ground truth, never ground truth.

A teacher declares its version and licence; where exact ground truth exists, its own error travels with every result.
"""

from ._base import Teacher as Teacher
from ._base import Unsaid as Unsaid
from ._registry import default_teacher as default_teacher
from ._registry import get_teacher as get_teacher
from ._registry import register_teacher as register_teacher
from ._registry import register_teacher_kind as register_teacher_kind
from ._registry import teachers as teachers
