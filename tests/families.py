"""The one table of generators that every family joins: small, built in milliseconds, with all that a family supports."""
from collections.abc import Callable

import torch

import generators
from generators import Generator, State
from generators.stable_diffusion import StableDiffusion, StableDiffusionConfig, StableDiffusionNetwork
from generators.stylegan2 import StyleGAN2, StyleGAN2Config, StyleGAN2Network
from generators.stylegan_xl import StyleGANXL, StyleGANXLConfig, StyleGANXLNetwork, schedule
from generators.vqgan import VQGAN, GPTConfig, VQGANConfig, VQGANNetwork
from probes.data._scenes import Scenes


def _stylegan2(**options) -> Callable[[], Generator]:
    def build() -> Generator:
        config = StyleGAN2Config(img_resolution=32, z_dim=16, w_dim=16, mapping_layers=2, channel_base=512,
                                 channel_max=16, **options)
        return StyleGAN2("tiny", StyleGAN2Network(config, seed=3), world="scenes")

    return build


def _stylegan_xl(radial: bool = False, **options) -> Callable[[], Generator]:
    def build() -> Generator:
        kind = dict(conv_kernel=1, use_radial_filters=True) if radial else {}
        entry, layers = schedule(32, 5, channel_base=256, channel_max=12, margin_size=4, **kind)
        config = StyleGANXLConfig(32, entry, layers, z_dim=16, w_dim=16, mapping_layers=2, **options)
        network = StyleGANXLNetwork(config, seed=3)
        with torch.no_grad():
            z = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
            network.synthesis.calibrate([network.mapping(z, torch.arange(4) % config.c_dim if config.c_dim else None)])
        return StyleGANXL("tiny", network, world="scenes")

    return build


def _vqgan(**options) -> Callable[[], Generator]:
    def build() -> Generator:
        gpt = GPTConfig(vocab_size=32, block_size=24, n_layer=2, n_head=2, n_embd=16)
        config = VQGANConfig(resolution=32, ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(4, 8),
                             z_channels=32, embed_dim=8, n_embed=32, gpt=gpt, **options)
        network = VQGANNetwork(config, seed=3)
        with torch.no_grad():       # codes that differ enough to be seen
            network.codebook.normal_(generator=torch.Generator().manual_seed(0))
        return VQGAN("tiny", network, world="scenes")

    return build


def _stable_diffusion(**options) -> Callable[[], Generator]:
    def build() -> Generator:
        down, up = ["CrossAttnDownBlock2D", "DownBlock2D"], ["UpBlock2D", "CrossAttnUpBlock2D"]
        config = StableDiffusionConfig(
            unet=dict(sample_size=8, in_channels=4, out_channels=4, block_out_channels=[16, 32], layers_per_block=1,
                      down_block_types=down, up_block_types=up, cross_attention_dim=16, attention_head_dim=2,
                      norm_num_groups=8),
            vae=dict(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=[8, 16, 16], layers_per_block=1,
                     down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3, norm_num_groups=8,
                     sample_size=32, scaling_factor=2.0, mid_block_add_attention=False),
            text_encoder=dict(vocab_size=9, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                              max_position_embeddings=6, bos_token_id=0, eos_token_id=1, pad_token_id=1),
            scheduler=dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                           prediction_type="v_prediction"),
            resolution=32, vocabulary=("<start>", "<end>", "<unknown>", "surface", "normal", "depth", "map", "albedo",
                                        "shading"))
        return StableDiffusion("tiny", StableDiffusionNetwork(config, seed=3), world="scenes", **options)

    return build


def states(generator: Generator, seeds: range | list[int]) -> State:
    """States for `seeds`, of generators driven by noise or by images."""
    if generator.driven_by == "noise":
        return generator.prepare(generator.sample(seeds))
    return generator.prepare(generator.encode(Scenes().images(seeds, generator.resolution)))


# name -> (builder, sites of the default scope)
FAMILIES: dict[str, tuple[Callable[[], Generator], int]] = {
    "stylegan2": (_stylegan2(), 11),
    "stylegan2-resnet": (_stylegan2(architecture="resnet"), 8),
    "stylegan2-conditional": (_stylegan2(c_dim=3), 11),
    "stylegan2-no-noise": (_stylegan2(use_noise=False), 11),
    "stylegan-xl": (_stylegan_xl(), 6),
    "stylegan-xl-radial": (_stylegan_xl(radial=True), 6),
    "stylegan-xl-conditional": (_stylegan_xl(c_dim=3, embedding="pretrained", embed_rows=3, embed_dim=5), 6),
    "vqgan": (_vqgan(), 20),
    "vqgan-conditional": (_vqgan(conditioning="class", num_classes=3), 20),
    "vqgan-coordinate": (_vqgan(conditioning="coordinate", coord_embed=16, coord_factor=16), 20),
    "stable-diffusion": (_stable_diffusion(), 32),
    "stable-diffusion-multi": (_stable_diffusion(mode="multi", conv_in="random:0", steps=2), 32),
    "stylegan2-scenes": (lambda: generators.load("stylegan2-scenes"), 14),
}
