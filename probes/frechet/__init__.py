"""Fréchet distances with named detectors. A value means something only with its detector, resize and sample count.

    measure(generators.load("stylegan2-scenes"), get_detector("scenes"))
    # {"value": …, "real_against_real": …, "detector": …, "resize": …, "samples": 2500}

A detector may be any nn.Module: `get_detector(module)`.
"""

from ._detectors import Detector as Detector
from ._detectors import DetectorError as DetectorError
from ._detectors import ModuleDetector as ModuleDetector
from ._detectors import ScenesDetector as ScenesDetector
from ._detectors import detectors as detectors
from ._detectors import get_detector as get_detector
from ._detectors import scene_features as scene_features
from ._dinov2 import DINOv2Detector as DINOv2Detector
from ._distance import frechet_distance as frechet_distance
from ._distance import measure as measure
from ._inception import Inception as Inception
from ._inception import InceptionDetector as InceptionDetector
