"""The VQGAN: `diffusers.VQModel` as first stage, `transformers.GPT2LMHeadModel` as transformer.

Esser et al. 2021, arXiv 2012.09841: an image x is encoded to E(x) [n_z, h, w], each of whose vectors is replaced by the
nearest of a codebook (equation 2) and decoded, G(q(E(x))); the codes' indices, read row by row, are what the
transformer models, p(s) = Π p(s_i | s_<i, c) (equation 9). `first_stage` alone is a network too: it encodes and decodes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._group_norm import adopt
from ._config import VQGANConfig


class GumbelQuantizer(nn.Module):
    """The codebook of a GumbelVQ: a 1x1 convolution gives every code a logit (Jang et al. 2016, arXiv 1611.01144).

    Training draws from the relaxed distribution; here the most probable code is taken, which is a function of the image.
    """

    def __init__(self, z_channels: int, embed_dim: int, n_embed: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(z_channels, n_embed, 1)
        self.embedding = nn.Embedding(n_embed, embed_dim)

    def indices(self, z: Tensor) -> Tensor:
        return self.proj(z).argmax(1)


class VQGANNetwork(nn.Module):
    """First stage and, where the configuration has one, transformer.

    A first stage alone is no generator, but it encodes and decodes; from a checkpoint:

        config, state = checkpoints.native_state(checkpoints.read_checkpoint("vqgan_imagenet_f16_1024/"))
        network = load_network(VQGANConfig.from_dict(config), state)
        image = network.decode(network.lookup(network.encode(image)))

    Args:
        config: the architecture.
        seed: of freshly drawn weights; None for torch's global generator. Loading replaces them all.

    Attributes:
        first_stage: `diffusers.VQModel`; without `encoder` and `quant_conv` if `config.encoder` is False.
        transformer: `transformers.GPT2LMHeadModel`, or None.
    """

    def __init__(self, config: VQGANConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.first_stage = _first_stage(config)
            self.transformer = _transformer(config) if config.gpt else None

    @property
    def codebook(self) -> Tensor:
        """float [n_embed, embed_dim]."""
        return self.first_stage.quantize.embedding.weight

    def encode(self, image: Tensor) -> Tensor:
        """image: float [N, in_channels, H, W] in [-1, 1], H and W multiples of f -> indices int64 [N, H/f, W/f].

        Raises:
            ValueError: if the image has another shape, or the network came without its encoder.
        """
        config = self.config
        if not config.encoder:
            raise ValueError("image: this VQGAN came without its encoder and can only decode; use a checkpoint that has it")
        if image.ndim != 4 or image.shape[1] != config.in_channels or any(n % config.factor for n in image.shape[2:]):
            raise ValueError(f"image: expected [N, {config.in_channels}, H, W] with H and W multiples of {config.factor}, "
                             f"got {list(image.shape)}")
        z = self.first_stage.encode(image).latents
        if config.quantizer == "gumbel":
            return self.first_stage.quantize.indices(z)
        indices = self.first_stage.quantize(z)[2][2]
        return indices.reshape(z.shape[0], *z.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        """indices: int64 [N, h, w] -> their code vectors, float [N, embed_dim, h, w]."""
        return self.first_stage.quantize.embedding(indices).movedim(-1, 1).contiguous()

    def decode(self, codes: Tensor) -> Tensor:
        """codes: float [N, embed_dim, h, w] -> image float [N, out_channels, f h, f w], nominally in [-1, 1]."""
        stage = self.first_stage
        return stage.decoder(stage.post_quant_conv(codes))

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens: int64 [N, L], condition and codes -> float [N, L, vocab_size], of the token that follows each.

        Raises:
            ValueError: if there is no transformer.
        """
        if self.transformer is None:
            raise ValueError("tokens: this VQGAN is a first stage without transformer; it encodes and decodes only")
        return self.transformer(tokens, use_cache=False).logits


def _first_stage(config: VQGANConfig) -> nn.Module:
    from diffusers import VQModel

    attention = [config.has_attention(i) for i in range(len(config.channels))]
    stage = VQModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple("AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attention),
        up_block_types=tuple("AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(attention)),
        block_out_channels=config.channels,
        layers_per_block=config.num_res_blocks,
        latent_channels=config.z_channels,
        sample_size=config.resolution,
        num_vq_embeddings=config.n_embed,
        vq_embed_dim=config.embed_dim,
    )
    if config.quantizer == "gumbel":
        stage.quantize = GumbelQuantizer(config.z_channels, config.embed_dim, config.n_embed)
    if not config.encoder:
        del stage.encoder, stage.quant_conv
        if config.quantizer == "gumbel":
            del stage.quantize.proj
    return adopt(stage)


def _transformer(config: VQGANConfig) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt = config.gpt
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=gpt.vocab_size, n_positions=gpt.block_size, n_embd=gpt.n_embd, n_layer=gpt.n_layer, n_head=gpt.n_head,
        activation_function="gelu",  # the exact one; GPT-2's own is the tanh approximation
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    ))  # fmt: skip
