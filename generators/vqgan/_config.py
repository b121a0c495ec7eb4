"""What a VQGAN generator is made of: a convolutional first stage, and the transformer that writes its codes.

Names follow the `ddconfig` and `transformer_config` of taming-transformers (Esser et al. 2021, arXiv 2012.09841).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

QUANTIZERS = ("vq", "gumbel")
CONDITIONINGS = ("none", "class", "coordinate")
NORM_GROUPS = 32  # of every group normalisation in the first stage


@dataclass(frozen=True)
class GPTConfig:
    """The autoregressive transformer (section 3.2): a GPT with learned positions and exact GELU.

    Args:
        vocab_size: tokens it knows; codes come first, so at least `n_embed`.
        block_size: longest sequence it can see, the condition included.
        n_layer: blocks.
        n_head: attention heads of a block.
        n_embd: width.
    """

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _require_int(f"gpt.{field.name}", getattr(self, field.name), minimum=1)
        if self.n_embd % self.n_head:
            raise ValueError(f"gpt.n_embd={self.n_embd}: expected a multiple of n_head={self.n_head}")


@dataclass(frozen=True)
class VQGANConfig:
    """Architecture of a VQGAN.

    Args:
        resolution: side of the images in pixels; a multiple of `factor`.
        ch: channels of the outermost level.
        ch_mult: channels of level i are ch * ch_mult[i]; each level but the last halves the resolution.
        num_res_blocks: residual blocks of an encoder level; the decoder's have one more.
        attn_resolutions: the levels at these resolutions have attention behind every residual block.
        z_channels: channels at the bottleneck, outside the two 1x1 convolutions around the codebook.
        embed_dim: width of a codebook vector.
        n_embed: vectors in the codebook.
        in_channels, out_channels: of the image.
        quantizer: "vq" takes the nearest codebook vector (equation 2); "gumbel" the most probable class of a 1x1
            convolution (GumbelVQ).
        encoder: whether the weights include the encoder. Drawing needs only the decoder.
        gpt: the transformer; None for a first stage alone.
        conditioning: what stands before the codes: "none" the token `sos_token`; "class" the label as a token;
            "coordinate" where in the image the codes lie, as tokens.
        sos_token: the token that opens an unconditional sequence.
        num_classes: labels, with "class".
        coord_embed: levels a coordinate is quantised to, with "coordinate".
        coord_factor: pixels a side of the square that shares one coordinate token, with "coordinate".

    Raises:
        ValueError: naming the field, for values that no VQGAN has.
    """

    resolution: int
    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    z_channels: int
    embed_dim: int
    n_embed: int
    in_channels: int = 3
    out_channels: int = 3
    quantizer: Literal["vq", "gumbel"] = "vq"
    encoder: bool = True
    gpt: GPTConfig | None = None
    conditioning: Literal["none", "class", "coordinate"] = "none"
    sos_token: int = 0
    num_classes: int = 0
    coord_embed: int = 0
    coord_factor: int = 0

    def __post_init__(self) -> None:
        # A frozen dataclass is hashable only if its containers are tuples.
        for name in ("ch_mult", "attn_resolutions"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)):
                raise ValueError(f"{name}={value!r}: expected a list of whole numbers")
            object.__setattr__(self, name, tuple(value))
            for entry in value:
                _require_int(name, entry, minimum=1)
        if isinstance(self.gpt, Mapping):
            object.__setattr__(self, "gpt", _gpt(self.gpt))
        for name in ("resolution", "ch", "num_res_blocks", "z_channels", "embed_dim", "in_channels", "out_channels"):
            _require_int(name, getattr(self, name), minimum=1)
        _require_int("n_embed", self.n_embed, minimum=2)
        for name in ("sos_token", "num_classes", "coord_embed", "coord_factor"):
            _require_int(name, getattr(self, name), minimum=0)
        for name, known in (("quantizer", QUANTIZERS), ("conditioning", CONDITIONINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(repr, known))}")
        if not isinstance(self.encoder, bool):
            raise ValueError(f"encoder={self.encoder!r}: expected true or false")
        if not 1 <= len(self.ch_mult) <= 10 or self.resolution % self.factor:
            raise ValueError(f"resolution={self.resolution}: {len(self.ch_mult)} entries of ch_mult={list(self.ch_mult)} "
                             f"shrink an image {2 ** (len(self.ch_mult) - 1)} times, so it must be a multiple of that")
        if wrong := [c for c in self.channels if c % NORM_GROUPS]:
            raise ValueError(f"ch={self.ch}, ch_mult={list(self.ch_mult)}: a level of {wrong[0]} channels; the "
                             f"normalisation has {NORM_GROUPS} groups, so use multiples of {NORM_GROUPS}")
        if self.quantizer == "gumbel" and self.embed_dim != self.z_channels and self.encoder:
            raise ValueError(f"embed_dim={self.embed_dim}: a GumbelVQ needs embed_dim = z_channels = {self.z_channels}")
        if self.gpt is not None:
            self._check_gpt(self.gpt)

    def _check_gpt(self, gpt: GPTConfig) -> None:
        if gpt.vocab_size < self.n_embed:
            raise ValueError(f"gpt.vocab_size={gpt.vocab_size}: it must hold the n_embed={self.n_embed} codes")
        if self.conditioning == "class" and not 1 <= self.num_classes <= gpt.vocab_size:
            raise ValueError(f"num_classes={self.num_classes}: expected 1 … gpt.vocab_size={gpt.vocab_size}, since a "
                             "label is a token")
        if self.conditioning == "none" and self.sos_token >= gpt.vocab_size:
            raise ValueError(f"sos_token={self.sos_token}: expected below gpt.vocab_size={gpt.vocab_size}")
        if self.conditioning == "coordinate":
            if not self.coord_factor or self.resolution % self.coord_factor:
                raise ValueError(f"coord_factor={self.coord_factor}: expected a divisor of resolution={self.resolution}")
            # The last square's coordinate is the largest; a token it rounds up to must exist.
            margin = ((self.coord_factor - 1) * (self.resolution + 1) / 2 + 1) / self.resolution**2
            if self.coord_embed < 1 or round(self.coord_embed * (1 - margin)) >= gpt.vocab_size:
                raise ValueError(f"coord_embed={self.coord_embed}: expected at least 1, and coordinates that round to tokens "
                                 f"below gpt.vocab_size={gpt.vocab_size}")
        longest = self.prefix_length + self.code_length - 1
        if gpt.block_size < longest:
            raise ValueError(f"gpt.block_size={gpt.block_size}: {self.prefix_length} tokens of condition and "
                             f"{self.code_length} codes need at least {longest}")

    @property
    def factor(self) -> int:
        """f: pixels a side of what one code stands for."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def side(self) -> int:
        """Codes a side of the image."""
        return self.resolution // self.factor

    @property
    def code_length(self) -> int:
        """Codes of an image."""
        return self.side**2

    @property
    def prefix_length(self) -> int:
        """Tokens of condition before the first code."""
        return (self.resolution // self.coord_factor) ** 2 if self.conditioning == "coordinate" else 1

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, outermost first."""
        return tuple(self.ch * m for m in self.ch_mult)

    def has_attention(self, level: int) -> bool:
        """Whether level `level` (0 is the outermost) has attention behind its residual blocks."""
        return self.resolution // 2**level in self.attn_resolutions

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types; `from_dict` reads them back."""
        values = dataclasses.asdict(self)
        return {**values, "ch_mult": list(self.ch_mult), "attn_resolutions": list(self.attn_resolutions)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VQGANConfig":
        """Builds a configuration from `to_dict`'s output; fields left out keep their defaults.

        Raises:
            ValueError: for a key that is no field, or a field without default that is missing.
        """
        return _from(cls, values, "VQGAN")


def _gpt(values: Mapping[str, Any]) -> GPTConfig:
    return _from(GPTConfig, values, "transformer")


def _from(cls: type, values: Mapping[str, Any], what: str) -> Any:
    fields = dataclasses.fields(cls)
    unknown = [str(key) for key in values if key not in [f.name for f in fields]]
    if unknown:
        raise ValueError(f"unknown {what} option {unknown[0]!r}; known: {', '.join(f.name for f in fields)}")
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise ValueError(f"a {what} needs {', '.join(missing)}")
    return cls(**values)


def _require_int(name: str, value: Any, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name}={value!r}: expected a whole number >= {minimum}")
