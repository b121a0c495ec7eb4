"""Stable Diffusion: VAE, text encoder and U-Net of diffusers and transformers, behind the generator interface."""
from ._config import StableDiffusionConfig as StableDiffusionConfig
from ._generator import GENERATOR as GENERATOR
from ._generator import StableDiffusion as StableDiffusion
from ._generator import build as build
from ._network import StableDiffusionNetwork as StableDiffusionNetwork
