"""What a StyleGAN2 generator is made of: one immutable record that a checkpoint reader can fill in.

Names follow StyleGAN2-ADA (Karras et al. 2020b, arXiv 2006.06676); defaults follow StyleGAN2 (Karras et al. 2020a,
arXiv 1912.04958, appendix B).
"""

import dataclasses
import math
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from typing import Any, Literal

ARCHITECTURES = ("skip", "resnet", "orig")
ACTIVATIONS = ("lrelu", "relu", "linear")


@dataclass(frozen=True)
class StyleGAN2Config:
    """Architecture of a StyleGAN2 generator.

    Args:
        img_resolution: Side of the image in pixels; a power of two, at least 4.
        z_dim: Width of the latent z.
        c_dim: Number of class labels; 0 for an unconditional generator.
        w_dim: Width of the intermediate latent w.
        img_channels: Channels of the image.
        mapping_layers: Fully connected layers of the mapping network (the paper's f).
        mapping_lr_multiplier: Learning-rate multiplier of the mapping network; also its run-time gain.
        mapping_dim: Width of the mapping network's hidden layers; None for `w_dim`.
        embed_dim: Width of the class embedding; None for `w_dim`. Unused when `c_dim` is 0.
        w_avg_beta: Decay of the running mean of w, the centre of truncation.
        channel_base: The layers at resolution r have min(channel_base // r, channel_max) channels.
        channel_max: Most channels of any layer.
        channels: Explicit {resolution: channels}, also accepted as pairs; overrides the two above where given.
        architecture: How blocks meet the image (StyleGAN2, figure 7): "skip" sums upsampled RGB outputs,
            "resnet" adds a 1x1 convolution around each block, "orig" has neither.
        resample_filter: Taps of the separable low-pass filter used when upsampling; normalised when applied.
        activation: "lrelu" (slope 0.2, gain sqrt 2), "relu" (gain sqrt 2) or "linear".
        conv_clamp: Limit of every layer's output, +-conv_clamp; None for none. Needed with half precision.
        num_fp16_res: How many of the highest resolutions run in half precision. Acts on CUDA only.
        use_noise: Whether the layers have a noise input.
    """

    img_resolution: int
    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    img_channels: int = 3
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    mapping_dim: int | None = None
    embed_dim: int | None = None
    w_avg_beta: float = 0.998
    channel_base: int = 16384
    channel_max: int = 512
    channels: Any = None
    architecture: Literal["skip", "resnet", "orig"] = "skip"
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    activation: Literal["lrelu", "relu", "linear"] = "lrelu"
    conv_clamp: float | None = None
    num_fp16_res: int = 0
    use_noise: bool = True

    def __post_init__(self) -> None:
        resolution = self.img_resolution
        if not isinstance(resolution, int) or resolution < 4 or resolution & (resolution - 1):
            raise ValueError(
                f"img_resolution={resolution!r}: StyleGAN2 doubles a 4x4 constant, so it must be a power of two >= 4; "
                f"use e.g. img_resolution={_nearest_power_of_two(resolution)}"
            )
        for name in ("z_dim", "w_dim", "img_channels", "mapping_layers", "channel_base", "channel_max"):
            _require_int(name, getattr(self, name), minimum=1)
        for name in ("c_dim", "num_fp16_res"):
            _require_int(name, getattr(self, name), minimum=0)
        for name, known in (("architecture", ARCHITECTURES), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(repr, known))}")
        taps = tuple(self.resample_filter)
        if len(taps) < 2 or not math.fsum(taps) > 0:
            raise ValueError(f"resample_filter={taps!r}: expected two or more taps of positive sum, as (1, 3, 3, 1)")
        # A frozen dataclass is hashable, hence usable as a cache key, only if its containers are tuples.
        object.__setattr__(self, "resample_filter", taps)
        if self.channels is not None:
            pairs = self.channels.items() if isinstance(self.channels, MappingType) else self.channels
            channels = {int(resolution): int(count) for resolution, count in pairs}
            unknown = sorted(set(channels) - set(self.resolutions))
            if unknown or min(channels.values(), default=1) < 1:
                raise ValueError(
                    f"channels={channels!r}: expected {{resolution: channels >= 1}} with resolutions among "
                    f"{', '.join(map(str, self.resolutions))}"
                )
            object.__setattr__(self, "channels", tuple(sorted(channels.items())))

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolutions of the synthesis blocks: 4, 8, ..., `img_resolution`."""
        return tuple(2**k for k in range(2, self.img_resolution.bit_length()))

    @property
    def num_ws(self) -> int:
        """Rows of `ws`: one for each 3x3 convolution, and one for the last ToRGB."""
        return 2 * len(self.resolutions)

    def channels_at(self, resolution: int) -> int:
        """Channels of the layers at `resolution`."""
        explicit = dict(self.channels or ())
        return explicit.get(resolution, max(min(self.channel_base // resolution, self.channel_max), 1))

    def first_ws(self, resolution: int) -> int:
        """Row of `ws` that the first convolution of the block at `resolution` reads."""
        return max(2 * self.resolutions.index(resolution) - 1, 0)

    def has_torgb(self, resolution: int) -> bool:
        """Whether the block at `resolution` has a ToRGB layer: all of them in "skip", else only the last."""
        return self.architecture == "skip" or resolution == self.img_resolution

    def has_skip(self, resolution: int) -> bool:
        """Whether the block at `resolution` has a residual 1x1 convolution."""
        return self.architecture == "resnet" and resolution > 4

    def uses_fp16(self, resolution: int) -> bool:
        """Whether the block at `resolution` runs in half precision on CUDA (never the 4x4 block)."""
        return resolution > 4 and resolution in self.resolutions[len(self.resolutions) - self.num_fp16_res :]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types; `from_dict` reads them back."""
        values = dataclasses.asdict(self)
        values["resample_filter"] = list(self.resample_filter)
        if self.channels is not None:
            values["channels"] = {str(resolution): count for resolution, count in self.channels}
        return values

    @classmethod
    def from_dict(cls, values: MappingType[str, Any]) -> "StyleGAN2Config":
        """Builds a configuration from `to_dict`'s output; fields left out keep their defaults.

        Raises:
            ValueError: For a key that is no field, naming it, or without `img_resolution`.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [str(key) for key in values if key not in known]
        if unknown:
            raise ValueError(f"unknown StyleGAN2 option {unknown[0]!r}; known options: {', '.join(known)}")
        if "img_resolution" not in values:
            raise ValueError("StyleGAN2 needs img_resolution, e.g. {'img_resolution': 256}")
        return cls(**values)


def _require_int(name: str, value: Any, minimum: int) -> None:
    if not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name}={value!r}: expected a whole number >= {minimum}")


def _nearest_power_of_two(value: Any) -> int:
    if not isinstance(value, (int, float)) or value < 4:
        return 4
    return 2 ** round(math.log2(value))
