"""What an alias-free generator is made of: one immutable record that a checkpoint reader or `schedule` fills in.

StyleGAN3 (Karras et al. 2021, arXiv 2106.12423) and StyleGAN-XL (Sauer et al. 2022, arXiv 2202.00273) share the
synthesis network: Fourier features, then layers that each have a band limit and a sampling rate of their own. A
StyleGAN-XL that was grown through super-resolution stages follows no single schedule, so every layer's geometry is
written out. Sampling rates, cutoffs and half-widths are in cycles per unit length, where the image's side is 1.
"""
from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from typing import Any, Literal

EMBEDDINGS = ("none", "linear", "pretrained")
_NAME = re.compile(r"L\d+_\d+_\d+")


@dataclass(frozen=True)
class InputGeometry:
    """The Fourier features that take the place of StyleGAN2's constant (StyleGAN3, section 3.1 and appendix F).

    Args:
        channels: how many features
        size: (width, height) in samples, the image's margin included
        sampling_rate: samples per unit length
        bandwidth: frequencies are drawn from the disc of this radius
    """

    channels: int
    size: tuple[int, int]
    sampling_rate: float
    bandwidth: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _ints("input.size", self.size, 2, minimum=1))
        _int("input.channels", self.channels, 1)
        _positive("input.sampling_rate", self.sampling_rate)
        _positive("input.bandwidth", self.bandwidth)
        if self.bandwidth >= self.sampling_rate / 2:
            raise ValueError(f"input.bandwidth={self.bandwidth!r}: expected less than half the sampling rate "
                             f"{self.sampling_rate!r}")


@dataclass(frozen=True)
class LayerGeometry:
    """One layer: convolution, upsampling, leaky ReLU, downsampling (StyleGAN3, figure 4b).

    Args:
        name: of the module, "L{index}_{size}_{channels}"
        in_channels, out_channels: of the convolution
        in_size, out_size: (width, height) in samples
        in_sampling_rate, out_sampling_rate: s, samples per unit length
        in_cutoff, out_cutoff: f_c of the signal, where its filter's transition band is centred
        in_half_width, out_half_width: f_h, half the width of that transition band
        conv_kernel: side of the convolution's kernel: 3, or 1 (StyleGAN3-R)
        up_factor, down_factor: between the layer's input, the rate of its nonlinearity, and its output
        up_taps, down_taps: taps of the two filters along one axis; 1 for no filter
        padding: (left, right, top, bottom) samples around the upsampled image; negative crops
        is_torgb: a linear layer without demodulation, and the last
        is_critically_sampled: its cutoff is half its sampling rate
        down_radial: the downsampling filter is radially symmetric, hence not separable (StyleGAN3-R)
        conv_clamp: limit of the nonlinearity's output, +-conv_clamp; None for none
        use_fp16: runs in half precision on CUDA
    """

    name: str
    in_channels: int
    out_channels: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    in_sampling_rate: float
    out_sampling_rate: float
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    conv_kernel: int
    up_factor: int
    down_factor: int
    up_taps: int
    down_taps: int
    padding: tuple[int, int, int, int]
    is_torgb: bool = False
    is_critically_sampled: bool = False
    down_radial: bool = False
    conv_clamp: float | None = 256
    use_fp16: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"layer name {self.name!r:.60}: expected e.g. 'L3_52_512' (index, size, channels)")
        for field in ("in_size", "out_size"):
            object.__setattr__(self, field, _ints(f"{self.name}.{field}", getattr(self, field), 2, minimum=1))
        object.__setattr__(self, "padding", _ints(f"{self.name}.padding", self.padding, 4, minimum=None))
        for field in ("in_channels", "out_channels", "conv_kernel", "up_factor", "down_factor", "up_taps", "down_taps"):
            _int(f"{self.name}.{field}", getattr(self, field), 1)
        for field in ("in_sampling_rate", "out_sampling_rate", "in_cutoff", "out_cutoff", "in_half_width",
                      "out_half_width"):
            _positive(f"{self.name}.{field}", getattr(self, field))
        for field in ("is_torgb", "is_critically_sampled", "down_radial", "use_fp16"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"{self.name}.{field}={getattr(self, field)!r:.60}: expected True or False")
        if self.conv_clamp is not None:
            _positive(f"{self.name}.conv_clamp", self.conv_clamp)
        if self.is_torgb and (self.conv_kernel, self.up_factor, self.down_factor, self.up_taps, self.down_taps,
                              *self.padding) != (1, 1, 1, 1, 1, 0, 0, 0, 0):
            raise ValueError(f"{self.name} is a ToRGB layer and has a kernel, a filter or padding; expected none")
        for axis in (0, 1):
            drawn = self._drawn_size(axis)
            if drawn != self.out_size[axis]:
                raise ValueError(f"{self.name}: its kernel, filters and padding make {drawn} samples of "
                                 f"{self.in_size[axis]}, its out_size says {self.out_size[axis]}")
        if self.in_sampling_rate * self.up_factor != self.out_sampling_rate * self.down_factor:
            raise ValueError(f"{self.name}: rate {self.in_sampling_rate} times {self.up_factor} is not rate "
                             f"{self.out_sampling_rate} times {self.down_factor}")

    def _drawn_size(self, axis: int) -> int:
        convolved = self.in_size[axis] + self.conv_kernel - 1
        padded = convolved * self.up_factor + sum(self.padding[2 * axis: 2 * axis + 2])
        return (padded - self.up_taps - self.down_taps + 1) // self.down_factor + 1

    @property
    def activation_rate(self) -> float:
        """The sampling rate at which the nonlinearity acts."""
        return self.in_sampling_rate * self.up_factor


@dataclass(frozen=True)
class StyleGANXLConfig:
    """Architecture of a StyleGAN3 or StyleGAN-XL generator.

    Args:
        img_resolution: side of the image in pixels
        input: the Fourier features
        layers: the layers in order, ToRGB last; each takes the output of the one before
        z_dim: width of the latent z
        c_dim: number of classes; 0 for an unconditional generator
        w_dim: width of the intermediate latent w
        img_channels: channels of the image
        mapping_layers: fully connected layers of the mapping network
        mapping_lr_multiplier: its learning-rate multiplier, also its run-time gain
        embedding: how a class enters the mapping network: "none"; "linear", a learned layer on its one-hot code
            (StyleGAN3); "pretrained", a table of image features' class means, projected to z_dim (StyleGAN-XL, section
            3.1). The last has one mean of w a class for truncation, the others one for all.
        embed_rows, embed_dim: shape of the pretrained table, of which the first c_dim rows are used
        w_avg_beta: decay of the running mean of w, the centre of truncation
        magnitude_ema_beta: decay of the layers' running mean square of their input
        output_scale: factor of the image
    """

    img_resolution: int
    input: InputGeometry
    layers: tuple[LayerGeometry, ...]
    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    img_channels: int = 3
    mapping_layers: int = 2
    mapping_lr_multiplier: float = 0.01
    embedding: Literal["none", "linear", "pretrained"] = "none"
    embed_rows: int = 1000
    embed_dim: int = 320
    w_avg_beta: float = 0.998
    magnitude_ema_beta: float = 0.999
    output_scale: float = 0.25

    def __post_init__(self) -> None:
        for name in ("img_resolution", "z_dim", "w_dim", "img_channels", "mapping_layers", "embed_rows", "embed_dim"):
            _int(name, getattr(self, name), 1)
        _int("c_dim", self.c_dim, 0)
        for name in ("mapping_lr_multiplier", "output_scale"):
            _positive(name, getattr(self, name))
        for name in ("w_avg_beta", "magnitude_ema_beta"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a decay in [0, 1)")
        if self.embedding not in EMBEDDINGS:
            raise ValueError(f"embedding={self.embedding!r}: expected one of {', '.join(map(repr, EMBEDDINGS))}")
        if (self.embedding == "none") != (self.c_dim == 0):
            raise ValueError(f"embedding={self.embedding!r} with c_dim={self.c_dim}: classes need an embedding, 'linear' "
                             "or 'pretrained', and no classes need 'none'")
        if self.embedding == "pretrained" and self.embed_rows < self.c_dim:
            raise ValueError(f"embed_rows={self.embed_rows}: expected at least one row for each of {self.c_dim} classes")
        object.__setattr__(self, "layers", tuple(self.layers))
        self._check_chain()

    def _check_chain(self) -> None:
        if not self.layers or not self.layers[-1].is_torgb or any(layer.is_torgb for layer in self.layers[:-1]):
            raise ValueError("layers: expected one ToRGB layer, the last")
        names = set()
        for layer in self.layers:
            if layer.name in names:
                raise ValueError(f"layers: {layer.name} appears twice")
            names.add(layer.name)
        before, channels, size, rate = "the input", self.input.channels, self.input.size, self.input.sampling_rate
        for layer in self.layers:
            if (layer.in_channels, layer.in_size, layer.in_sampling_rate) != (channels, size, rate):
                raise ValueError(
                    f"{layer.name} takes {layer.in_channels} channels of {layer.in_size} samples at rate "
                    f"{layer.in_sampling_rate:g}, but {before} gives {channels} of {size} at rate {rate:g}")
            before, channels, size, rate = layer.name, layer.out_channels, layer.out_size, layer.out_sampling_rate
        resolution = (self.img_resolution, self.img_resolution)
        if (channels, size) != (self.img_channels, resolution):
            raise ValueError(f"{before} draws {channels} channels of {size}, expected {self.img_channels} of {resolution}")

    @property
    def num_ws(self) -> int:
        """Rows of `ws`: one for the Fourier features and one for each layer."""
        return 1 + len(self.layers)

    @property
    def class_averages(self) -> bool:
        """Whether the mean of w is kept for every class."""
        return self.embedding == "pretrained"

    @property
    def mapping_widths(self) -> tuple[int, ...]:
        """Widths before, between and after the fully connected layers of the mapping network."""
        embedded = {"none": 0, "linear": self.w_dim, "pretrained": self.z_dim}[self.embedding]
        return (self.z_dim + embedded, *[self.w_dim] * self.mapping_layers)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types; `from_dict` reads them back."""
        values = dataclasses.asdict(self)
        values["input"] = _listed(values["input"])
        values["layers"] = [_listed(layer) for layer in values["layers"]]
        return values

    @classmethod
    def from_dict(cls, values: MappingType[str, Any]) -> StyleGANXLConfig:
        """Builds a configuration from `to_dict`'s output; fields left out keep their defaults.

        Raises:
            ValueError: for a key that is no field or a field that is missing, naming it, and for geometry that does not
                fit together, naming the layer.
        """
        values = dict(_checked(cls, values, "the alias-free generator"))
        values["input"] = InputGeometry(**_checked(InputGeometry, values["input"], "input"))
        if not isinstance(values["layers"], (list, tuple)):
            raise ValueError(f"layers: expected a list, got {type(values['layers']).__name__}")
        values["layers"] = tuple(LayerGeometry(**_checked(LayerGeometry, layer, "layers")) for layer in values["layers"])
        return cls(**values)


def _checked(cls: type, values: Any, what: str) -> MappingType[str, Any]:
    if not isinstance(values, MappingType):
        raise ValueError(f"{what}: expected an object with named fields, got {type(values).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := [str(key) for key in values if key not in fields]:
        raise ValueError(f"{what}: unknown option {unknown[0]!r:.60}; known options: {', '.join(fields)}")
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{what}: {', '.join(missing)} missing")
    return values


def _listed(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _int(name: str, value: Any, minimum: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or (minimum is not None and value < minimum):
        raise ValueError(f"{name}={value!r:.60}: expected a whole number{'' if minimum is None else f' >= {minimum}'}")


def _ints(name: str, values: Any, count: int, minimum: int | None) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or len(values) != count:
        raise ValueError(f"{name}={values!r:.60}: expected {count} whole numbers")
    for value in values:
        _int(name, value, minimum)
    return tuple(values)


def _positive(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not (0 < value < math.inf):
        raise ValueError(f"{name}={value!r:.60}: expected a positive number")
