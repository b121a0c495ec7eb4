"""Public StyleGAN-XL and StyleGAN3 checkpoints: where they are, and under which licence.

Names, addresses and FIDs are those of the READMEs of autonomousvision/stylegan-xl and NVlabs/stylegan3; their publishers
give no hashes. `fid` is the publisher's own figure for that very file, None where there is none.
"""
from __future__ import annotations

from .._public import PublicCheckpoint

XL = "https://s3.eu-central-1.amazonaws.com/avg-projects/stylegan_xl/models/"
XL_SOURCE = "https://github.com/autonomousvision/stylegan-xl"
XL_LICENSE = "not stated in its README; see https://github.com/autonomousvision/stylegan-xl (builds on StyleGAN3's code)"
STYLEGAN3 = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan3/versions/1/files/"
STYLEGAN3_SOURCE = "https://github.com/NVlabs/stylegan3"
STYLEGAN3_LICENSE = "Nvidia Source Code License (https://github.com/NVlabs/stylegan3/blob/main/LICENSE.txt)"

_XL = {
    "ffhq": ("faces (FFHQ)", {256: 2.19, 512: 2.23, 1024: 2.02}),
    "imagenet": ("objects of a thousand classes (ImageNet), class-conditional",
                 {16: 0.73, 32: 1.11, 64: 1.52, 128: 1.77, 256: 2.26, 512: 2.42, 1024: 2.51}),
    "pokemon": ("Pokémon", {256: 23.97, 512: 23.82, 1024: 25.47}),
}
_STYLEGAN3 = {
    "ffhq": ("faces (FFHQ)", (1024,)),
    "ffhqu": ("faces, unaligned (FFHQ-U)", (1024, 256)),
    "metfaces": ("painted and sculpted faces (MetFaces)", (1024,)),
    "metfacesu": ("painted and sculpted faces, unaligned (MetFaces-U)", (1024,)),
    "afhqv2": ("animals' faces (AFHQv2)", (512,)),
}
_CONFIGS = {"t": "equivariant to translation", "r": "equivariant to translation and rotation"}


def _xl(name: str, file: str, resolution: int, text: str, fid: float) -> PublicCheckpoint:
    return PublicCheckpoint(name, f"{XL}{file}.pkl", "stylegan-xl", resolution, XL_LICENSE, XL_SOURCE, text, fid=fid)


def _stylegan3(config: str, data: str, resolution: int, text: str) -> PublicCheckpoint:
    url = f"{STYLEGAN3}stylegan3-{config}-{data}-{resolution}x{resolution}.pkl"
    return PublicCheckpoint(f"stylegan3-{config}-{data}-{resolution}", url, "stylegan3", resolution, STYLEGAN3_LICENSE,
                            STYLEGAN3_SOURCE, f"{text}, {_CONFIGS[config]}")


_ENTRIES = (
    *(_xl(f"stylegan-xl-{data}-{resolution}", f"{data}{resolution}", resolution, text, fid)
      for data, (text, fids) in _XL.items() for resolution, fid in fids.items()),
    _xl("stylegan-xl-cifar10", "cifar10", 32, "objects of ten classes (CIFAR-10), class-conditional", 1.85),
    *(_stylegan3(config, data, resolution, text)
      for data, (text, resolutions) in _STYLEGAN3.items() for config in _CONFIGS for resolution in resolutions),
)

PUBLIC: dict[str, PublicCheckpoint] = {entry.name: entry for entry in _ENTRIES}
