"""The weights of a VQGAN on disk: their names and shapes, and how taming's become this network's.

One table, `entries`, has a line for every tensor of the network: its name and shape here, the name or names in a
taming-transformers checkpoint (`first_stage_model.` and `transformer.` in front as a transformer run has them), and what
lies between. The first stage is `diffusers.VQModel` (1x1 attention convolutions are linear layers there, up blocks count
from the bottleneck), the transformer `transformers.GPT2LMHeadModel` (linear weights transposed; query, key, value in one).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..checkpoints._errors import CheckpointError
from ._config import VQGANConfig

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """A tensor of the network.

    Args:
        name: here.
        theirs: in a taming checkpoint; more than one are concatenated along their first axis.
        shape: of each of `theirs`.
        reshaped: its shape here where axes of length one are dropped; None where they are not.
        transpose: whether the two axes are swapped (GPT-2's linear layers).
    """

    name: str
    theirs: tuple[str, ...]
    shape: Shape
    reshaped: Shape | None = None
    transpose: bool = False

    @property
    def native_shape(self) -> Shape:
        shape = self.reshaped or (self.shape[0] * len(self.theirs), *self.shape[1:])
        return shape[::-1] if self.transpose else shape

    def convert(self, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The tensor for this network: float32, contiguous, sharing no memory with the file's."""
        parts = [state[name] for name in self.theirs]
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        value = value.t() if self.transpose else value
        return value.to(torch.float32, copy=True).reshape(self.native_shape).contiguous()


def entries(config: VQGANConfig) -> list[Entry]:
    """Every tensor of the network of this configuration."""
    found = [replace(entry, name=f"first_stage.{entry.name}", theirs=tuple(f"first_stage_model.{n}" for n in entry.theirs))
             for entry in _first_stage(config)]
    return found + (list(_gpt(config)) if config.gpt else [])


def expected_shapes(config: Mapping[str, Any], source: str) -> dict[str, Shape]:
    """{name: shape} of every entry that a VQGAN of this configuration has.

    Arithmetic, rather than the network itself: the configuration is not trusted yet.

    Raises:
        CheckpointError: if the configuration is none of a VQGAN, or beyond any known.
    """
    return {entry.name: entry.native_shape for entry in entries(parse(config, source))}


def parse(config: Mapping[str, Any], source: str) -> VQGANConfig:
    """The configuration, or a CheckpointError that names the file."""
    try:
        parsed = VQGANConfig.from_dict(config)
    except (ArithmeticError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{source}: its configuration is not a VQGAN's: {error}") from error
    gpt = parsed.gpt
    sizes = [parsed.resolution, max(parsed.channels), parsed.z_channels, parsed.embed_dim, *([gpt.n_embd] if gpt else [])]
    depths = [parsed.num_res_blocks, *([gpt.n_layer] if gpt else [])]
    vocabularies = [parsed.n_embed, *([gpt.vocab_size, gpt.block_size] if gpt else [])]
    if max(sizes) > 16384 or max(depths) > 256 or max(vocabularies) > 2**20:
        raise CheckpointError(f"{source}: its configuration is beyond any VQGAN known ({parsed.resolution} px, "
                              f"{max(parsed.channels)} channels, {parsed.n_embed} codes"
                              f"{f', {gpt.n_layer} layers of {gpt.n_embd}' if gpt else ''}).")
    return parsed


def native(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(config, state) under taming's names -> what `VQGANNetwork` loads strictly. `state` was checked to be complete."""
    parsed = VQGANConfig.from_dict(config)
    return parsed.to_dict(), {entry.name: entry.convert(state) for entry in entries(parsed)}


def reference_shapes(config: VQGANConfig) -> dict[str, Shape]:
    """{name: shape} of the tensors a taming checkpoint of this configuration must have."""
    return {name: entry.shape for entry in entries(config) for name in entry.theirs}


def _first_stage(config: VQGANConfig) -> Iterator[Entry]:
    channels, z, e = config.channels, config.z_channels, config.embed_dim
    last = len(channels) - 1
    if config.encoder:
        yield from _conv("encoder.conv_in", "encoder.conv_in", config.in_channels, channels[0])
        previous = channels[0]
        for i, width in enumerate(channels):
            for j in range(config.num_res_blocks):
                ours, theirs = f"encoder.down_blocks.{i}.resnets.{j}", f"encoder.down.{i}.block.{j}"
                yield from _resnet(ours, theirs, previous, width)
                previous = width
                if config.has_attention(i):
                    yield from _attention(f"encoder.down_blocks.{i}.attentions.{j}", f"encoder.down.{i}.attn.{j}", width)
            if i < last:
                ours = f"encoder.down_blocks.{i}.downsamplers.0.conv"
                yield from _conv(ours, f"encoder.down.{i}.downsample.conv", width, width)
        yield from _middle("encoder", channels[-1])
        yield from _affine("encoder.conv_norm_out", "encoder.norm_out", channels[-1])
        yield from _conv("encoder.conv_out", "encoder.conv_out", channels[-1], z)
        yield from _conv("quant_conv", "quant_conv", z, e, kernel=1)
    if config.quantizer == "gumbel":
        yield Entry("quantize.embedding.weight", ("quantize.embed.weight",), (config.n_embed, e))
        if config.encoder:
            yield from _conv("quantize.proj", "quantize.proj", z, config.n_embed, kernel=1)
    else:
        yield Entry("quantize.embedding.weight", ("quantize.embedding.weight",), (config.n_embed, e))
    yield from _conv("post_quant_conv", "post_quant_conv", e, z, kernel=1)
    yield from _conv("decoder.conv_in", "decoder.conv_in", z, channels[-1])
    yield from _middle("decoder", channels[-1])
    previous = channels[-1]
    for i in reversed(range(len(channels))):
        block, width = f"decoder.up_blocks.{last - i}", channels[i]
        for j in range(config.num_res_blocks + 1):
            yield from _resnet(f"{block}.resnets.{j}", f"decoder.up.{i}.block.{j}", previous, width)
            previous = width
            if config.has_attention(i):
                yield from _attention(f"{block}.attentions.{j}", f"decoder.up.{i}.attn.{j}", width)
        if i:
            yield from _conv(f"{block}.upsamplers.0.conv", f"decoder.up.{i}.upsample.conv", width, width)
    yield from _affine("decoder.conv_norm_out", "decoder.norm_out", channels[0])
    yield from _conv("decoder.conv_out", "decoder.conv_out", channels[0], config.out_channels)


def _middle(half: str, width: int) -> Iterator[Entry]:
    yield from _resnet(f"{half}.mid_block.resnets.0", f"{half}.mid.block_1", width, width)
    yield from _attention(f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1", width)
    yield from _resnet(f"{half}.mid_block.resnets.1", f"{half}.mid.block_2", width, width)


def _resnet(ours: str, theirs: str, inputs: int, outputs: int) -> Iterator[Entry]:
    yield from _affine(f"{ours}.norm1", f"{theirs}.norm1", inputs)
    yield from _conv(f"{ours}.conv1", f"{theirs}.conv1", inputs, outputs)
    yield from _affine(f"{ours}.norm2", f"{theirs}.norm2", outputs)
    yield from _conv(f"{ours}.conv2", f"{theirs}.conv2", outputs, outputs)
    if inputs != outputs:
        yield from _conv(f"{ours}.conv_shortcut", f"{theirs}.nin_shortcut", inputs, outputs, kernel=1)


def _attention(ours: str, theirs: str, width: int) -> Iterator[Entry]:
    yield from _affine(f"{ours}.group_norm", f"{theirs}.norm", width)
    for mine, other in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        yield Entry(f"{ours}.{mine}.weight", (f"{theirs}.{other}.weight",), (width, width, 1, 1), (width, width))
        yield Entry(f"{ours}.{mine}.bias", (f"{theirs}.{other}.bias",), (width,))


def _conv(ours: str, theirs: str, inputs: int, outputs: int, kernel: int = 3) -> Iterator[Entry]:
    yield Entry(f"{ours}.weight", (f"{theirs}.weight",), (outputs, inputs, kernel, kernel))
    yield Entry(f"{ours}.bias", (f"{theirs}.bias",), (outputs,))


def _affine(ours: str, theirs: str, width: int) -> Iterator[Entry]:
    for leaf in ("weight", "bias"):
        yield Entry(f"{ours}.{leaf}", (f"{theirs}.{leaf}",), (width,))


def _gpt(config: VQGANConfig) -> Iterator[Entry]:
    gpt = config.gpt
    width = gpt.n_embd
    base = "transformer.transformer"
    yield Entry(f"{base}.wte.weight", ("transformer.tok_emb.weight",), (gpt.vocab_size, width))
    yield Entry(f"{base}.wpe.weight", ("transformer.pos_emb",), (1, gpt.block_size, width),
                (gpt.block_size, width))
    for i in range(gpt.n_layer):
        ours, theirs = f"{base}.h.{i}", f"transformer.blocks.{i}"
        yield from _affine(f"{ours}.ln_1", f"{theirs}.ln1", width)
        yield from _linear(f"{ours}.attn.c_attn", [f"{theirs}.attn.{part}" for part in ("query", "key", "value")], width, width)
        yield from _linear(f"{ours}.attn.c_proj", [f"{theirs}.attn.proj"], width, width)
        yield from _affine(f"{ours}.ln_2", f"{theirs}.ln2", width)
        yield from _linear(f"{ours}.mlp.c_fc", [f"{theirs}.mlp.0"], width, 4 * width)
        yield from _linear(f"{ours}.mlp.c_proj", [f"{theirs}.mlp.2"], 4 * width, width)
    yield from _affine(f"{base}.ln_f", "transformer.ln_f", width)
    yield Entry("transformer.lm_head.weight", ("transformer.head.weight",), (gpt.vocab_size, width))


def _linear(ours: str, theirs: list[str], inputs: int, outputs: int) -> Iterator[Entry]:
    yield Entry(f"{ours}.weight", tuple(f"{n}.weight" for n in theirs), (outputs, inputs), transpose=True)
    yield Entry(f"{ours}.bias", tuple(f"{n}.bias" for n in theirs), (outputs,))
