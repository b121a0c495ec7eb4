"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958), written from the papers; loads StyleGAN2-ADA weights."""

from ._config import StyleGAN2Config as StyleGAN2Config
from ._gains import affine_names as affine_names
from ._gains import affine_resolutions as affine_resolutions
from ._gains import fold_gains as fold_gains
from ._gains import initialise as initialise
from ._gains import learning_rate_scales as learning_rate_scales
from ._generator import StyleGAN2 as StyleGAN2
from ._generator import build as build
from ._network import Mapping as Mapping
from ._network import StyleGAN2Network as StyleGAN2Network
from ._network import Synthesis as Synthesis

GENERATOR = StyleGAN2
