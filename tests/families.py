"""The one table of generators that every family joins: small, built in milliseconds, with all that a family supports."""
from collections.abc import Callable

import generators
from generators import Generator
from generators.stylegan2 import StyleGAN2, StyleGAN2Config, StyleGAN2Network


def _stylegan2(**options) -> Callable[[], Generator]:
    def build() -> Generator:
        config = StyleGAN2Config(img_resolution=32, z_dim=16, w_dim=16, mapping_layers=2, channel_base=512,
                                 channel_max=16, **options)
        return StyleGAN2("tiny", StyleGAN2Network(config, seed=3), world="scenes")

    return build


# name -> (builder, sites of the default scope)
FAMILIES: dict[str, tuple[Callable[[], Generator], int]] = {
    "stylegan2": (_stylegan2(), 11),
    "stylegan2-resnet": (_stylegan2(architecture="resnet"), 8),
    "stylegan2-conditional": (_stylegan2(c_dim=3), 11),
    "stylegan2-no-noise": (_stylegan2(use_noise=False), 11),
    "stylegan2-scenes": (lambda: generators.load("stylegan2-scenes"), 14),
}
