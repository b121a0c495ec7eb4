"""The published Stable Diffusions at their true size, without numbers: their U-Nets, behind the generator interface."""
from functools import lru_cache

import torch

from generators.stable_diffusion import StableDiffusion, StableDiffusionNetwork
from generators.stable_diffusion._parts import assemble, published


@lru_cache
def on_meta(version: str) -> StableDiffusion:
    """Of "sd15", "sd21-base", "sd21" or "sdxl"; shared, so nothing may be attached to it."""
    stated = published(version)
    config = assemble(stated, stated["scheduler"], version)
    with torch.device("meta"):
        network = StableDiffusionNetwork(config, parts=("unet",))
    return StableDiffusion(version, network)
