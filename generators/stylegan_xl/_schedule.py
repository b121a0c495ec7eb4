"""The paper's layer geometry: how cutoffs, sampling rates, sizes and channels follow from a resolution.

StyleGAN3, section 3.2 (config T) and appendix F: cutoff f_c and stopband f_t grow geometrically from the first layer to
the first critically sampled one and stay there; the sampling rate is the power of two that the stopband needs; the
transition band fills what the sampling rate leaves; channels fall as the cutoff rises. StyleGAN-XL, section 3.2, trains a
stem at 16 px and grows it: the stem's critically sampled layers and ToRGB go, and a head for twice the resolution takes
over from the stem's last cutoff.
"""
from __future__ import annotations

import math

from ._config import InputGeometry, LayerGeometry, StyleGANXLConfig

_TAPS = 6           # filter taps per unit of the resampling factor
_OVERSAMPLING = 2   # the nonlinearity runs at this multiple of the higher of a layer's two sampling rates


def schedule(img_resolution: int, num_layers: int = 14, num_critical: int = 2, first_cutoff: float = 2.0,
             first_stopband: float = 2**2.1, last_stopband_rel: float = 2**0.3, margin_size: int = 10,
             channel_base: int = 32768, channel_max: int = 512, conv_kernel: int = 3,
             use_radial_filters: bool = False, img_channels: int = 3, conv_clamp: float | None = 256,
             num_fp16_res: int = 4, stem: StyleGANXLConfig | None = None,
             ) -> tuple[InputGeometry, tuple[LayerGeometry, ...]]:
    """Lays out a generator. StyleGAN3-T is the defaults, StyleGAN3-R `channel_base=65536, channel_max=1024,
    conv_kernel=1, use_radial_filters=True`.

    Args:
        img_resolution: side of the image in pixels
        num_layers: layers, ToRGB not counted; with `stem`, layers of the new head
        num_critical: how many of them, at the end, are critically sampled
        first_cutoff, first_stopband: f_c and f_t of the first layer, in cycles per image side; with `stem` its own
        last_stopband_rel: f_t / f_c of the last layers
        margin_size: samples around the image that the layers before the last two also compute
        channel_base, channel_max: a layer has min(channel_base / 2 / cutoff, channel_max) channels
        conv_kernel: side of the convolutions' kernels
        use_radial_filters: radially symmetric downsampling filters where a layer is not critically sampled
        img_channels: channels of the image
        conv_clamp: limit of every layer's output
        num_fp16_res: octaves of sampling rate, counted from the image's, that run in half precision on CUDA
        stem: a generator of lower resolution to grow; its input and the layers before its critically sampled ones stay

    Returns:
        (input, layers) for `StyleGANXLConfig`.

    Raises:
        ValueError: there are too few layers, the resolution is no power of two, or the stem's is not lower.
    """
    if img_resolution < 4 or img_resolution & (img_resolution - 1):
        raise ValueError(f"img_resolution={img_resolution}: expected a power of two, as sampling rates are")
    if not 1 <= num_critical < num_layers:
        raise ValueError(f"num_layers={num_layers}, num_critical={num_critical}: expected 1 <= num_critical < num_layers")
    last_cutoff = img_resolution / 2
    kept: tuple[LayerGeometry, ...] = ()
    if stem is not None:
        kept = tuple(layer for layer in stem.layers if not layer.is_critically_sampled and not layer.is_torgb)
        if stem.img_resolution >= img_resolution or not kept:
            raise ValueError(f"stem: it draws {stem.img_resolution} px with {len(kept)} layers below critical sampling; "
                             f"expected less than img_resolution={img_resolution} px and at least one such layer")
        first_stopband = _stopband(kept[-1].out_cutoff, (first_cutoff, first_stopband), stem, last_stopband_rel)
        first_cutoff = kept[-1].out_cutoff
    if first_cutoff > last_cutoff:
        raise ValueError(f"img_resolution={img_resolution}: its cutoff {last_cutoff:g} is below first_cutoff={first_cutoff}")
    cutoffs, rates, half_widths, sizes, channels = [], [], [], [], []
    for i in range(num_layers + 1):
        position = min(i / (num_layers - num_critical), 1)
        cutoff = first_cutoff * (last_cutoff / first_cutoff) ** position
        stopband = first_stopband * (last_cutoff * last_stopband_rel / first_stopband) ** position
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, img_resolution)))
        cutoffs.append(cutoff)
        rates.append(rate)
        half_widths.append(max(stopband, rate / 2) - cutoff)
        sizes.append(img_resolution if i >= num_layers - 1 else rate + 2 * margin_size)
        channels.append(img_channels if i == num_layers else round(min(channel_base / 2 / cutoff, channel_max)))
    if stem is None:
        entry = InputGeometry(channels[0], (sizes[0], sizes[0]), float(rates[0]), cutoffs[0])
        last = (channels[0], sizes[0], rates[0], cutoffs[0], half_widths[0])
    else:
        entry, end = stem.input, kept[-1]
        last = (end.out_channels, end.out_size[0], end.out_sampling_rate, end.out_cutoff, end.out_half_width)
    layers = list(kept)
    first_index = len(kept) + 1 if kept else 0                  # one number is left out, as in published files
    for i in range(num_layers + 1):
        current = (channels[i], sizes[i], rates[i], cutoffs[i], half_widths[i])
        layers.append(_layer(
            first_index + i, last, current, is_torgb=i == num_layers, is_critically_sampled=i >= num_layers - num_critical,
            conv_kernel=conv_kernel, radial=use_radial_filters, conv_clamp=conv_clamp,
            use_fp16=rates[i] * 2**num_fp16_res > img_resolution))
        last = current
    return entry, tuple(layers)


def _stopband(cutoff: float, first: tuple[float, float], stem: StyleGANXLConfig, last_rel: float) -> float:
    """The stopband that belongs to a cutoff of the stem: in a schedule both are geometric, so one is a power of the
    other between the ends."""
    last_cutoff = stem.img_resolution / 2
    if not first[0] < cutoff <= last_cutoff:
        return first[1]
    position = math.log(cutoff / first[0]) / math.log(last_cutoff / first[0])
    return first[1] * (last_cutoff * last_rel / first[1]) ** position


def _layer(index: int, last: tuple, current: tuple, is_torgb: bool, is_critically_sampled: bool, conv_kernel: int,
           radial: bool, conv_clamp: float | None, use_fp16: bool) -> LayerGeometry:
    in_channels, in_size, in_rate, in_cutoff, in_half_width = last
    out_channels, out_size, out_rate, out_cutoff, out_half_width = current
    kernel = 1 if is_torgb else conv_kernel
    inner_rate = max(in_rate, out_rate) * (1 if is_torgb else _OVERSAMPLING)
    up, down = int(inner_rate // in_rate), int(inner_rate // out_rate)
    up_taps = _TAPS * up if up > 1 and not is_torgb else 1
    down_taps = _TAPS * down if down > 1 and not is_torgb else 1
    # The first and last output samples, in the middle of the padded image. Where the sum is odd the extra sample is put
    # so that input and output pixels have their centres at the same place.
    total = (out_size - 1) * down + 1 - (in_size + kernel - 1) * up + up_taps + down_taps - 2
    before = (total + up) // 2
    padding = (before, total - before)
    return LayerGeometry(
        name=f"L{index}_{out_size}_{out_channels}", in_channels=in_channels, out_channels=out_channels,
        in_size=(in_size, in_size), out_size=(out_size, out_size), in_sampling_rate=in_rate, out_sampling_rate=out_rate,
        in_cutoff=in_cutoff, out_cutoff=out_cutoff, in_half_width=in_half_width, out_half_width=out_half_width,
        conv_kernel=kernel, up_factor=up, down_factor=down, up_taps=up_taps, down_taps=down_taps,
        padding=(*padding, *padding), is_torgb=is_torgb, is_critically_sampled=is_critically_sampled,
        down_radial=radial and not is_critically_sampled and down_taps > 1, conv_clamp=conv_clamp, use_fp16=use_fp16)
