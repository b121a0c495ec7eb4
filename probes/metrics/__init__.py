"""Protocols: named, versioned definitions of how a prediction is scored.

    protocol = get_protocol("normal-pooled")
    scores = protocol.score(prediction, target)     # physical maps [N, C, H, W], NaN: no value -> {metric: [N]}
    aggregate(protocol, scores)                     # {metric: {value, ci95, n}}, bootstrapped over images

The first metric of a protocol is its primary one; skill is defined on metrics for which lower is better:

    skill = 1 - error / error of the trivial predictor
"""
from . import _images as _images  # registers image-rms, image-si, image-similarity
from ._aggregate import aggregate as aggregate
from ._aggregate import aggregate_skill as aggregate_skill
from ._aggregate import bootstrap_mean as bootstrap_mean
from ._aggregate import bootstrap_skill as bootstrap_skill
from ._aggregate import summarise as summarise
from ._base import EmptyMaskError as EmptyMaskError
from ._base import Metric as Metric
from ._base import Protocol as Protocol
from ._base import get_protocol as get_protocol
from ._base import protocols as protocols
from ._base import register_protocol as register_protocol
from ._depth import check_protocol as check_protocol
from ._depth import depth_protocol as depth_protocol
from ._depth import prepare_depth as prepare_depth
from ._images import ssim_map as ssim_map
from ._normals import angular_error as angular_error
