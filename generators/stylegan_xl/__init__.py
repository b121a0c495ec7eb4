"""StyleGAN3 and StyleGAN-XL (Karras et al. 2021, arXiv 2106.12423; Sauer et al. 2022, arXiv 2202.00273): the alias-free
generator, written from the papers; loads the weights of both."""

from ._config import InputGeometry as InputGeometry
from ._config import LayerGeometry as LayerGeometry
from ._config import StyleGANXLConfig as StyleGANXLConfig
from ._filters import lowpass as lowpass
from ._gains import affine_names as affine_names
from ._gains import affine_rates as affine_rates
from ._gains import fold_gains as fold_gains
from ._gains import initialise as initialise
from ._gains import learning_rate_scales as learning_rate_scales
from ._generator import StyleGANXL as StyleGANXL
from ._generator import build as build
from ._network import Mapping as Mapping
from ._network import StyleGANXLNetwork as StyleGANXLNetwork
from ._network import Synthesis as Synthesis
from ._schedule import schedule as schedule

GENERATOR = StyleGANXL
