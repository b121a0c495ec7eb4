"""Ask image generators what they know about the scenes they draw.

    import probes
    probe = probes.fit(generator="stylegan2-scenes", intrinsic="normal")
    probe.predict(seeds=range(8)); probe.evaluate(); probe.save("runs/normals"); probes.load("runs/normals")
"""

from ._bank import Bank as Bank
from ._bank import BankError as BankError
from ._exchange import export_lora as export_lora
from ._exchange import import_lora as import_lora
from ._files import OutputError as OutputError
from ._fit import fit as fit
from ._intrinsics import Intrinsic as Intrinsic
from ._intrinsics import get_intrinsic as get_intrinsic
from ._intrinsics import intrinsics as intrinsics
from ._intrinsics import register_intrinsic as register_intrinsic
from ._photos import PhotoPrediction as PhotoPrediction
from ._photos import predict_folder as predict_folder
from ._probe import Probe as Probe
from ._probe import RunError as RunError
from ._probe import load as load
from ._processes import ProcessesError as ProcessesError
from ._results import Evaluation as Evaluation
from ._results import Prediction as Prediction
from ._train import DivergedError as DivergedError
from ._train import TrainingStateError as TrainingStateError
from .labelling import Labelled as Labelled
from .labelling import label as label
from .scoring import Scored as Scored
from .scoring import score as score
from .studies import study as study
from .teachers import Teacher as Teacher
from .teachers import register_teacher as register_teacher
from .teachers import teachers as teachers

__version__ = "0.1.0"
