"""VQGAN (Esser et al. 2021, arXiv 2012.09841) on diffusers' VQModel and transformers' GPT-2; loads taming's weights."""

from ._config import GPTConfig as GPTConfig
from ._config import VQGANConfig as VQGANConfig
from ._generator import GENERATOR as GENERATOR
from ._generator import VQGAN as VQGAN
from ._generator import build as build
from ._generator import load_network as load_network
from ._network import VQGANNetwork as VQGANNetwork
