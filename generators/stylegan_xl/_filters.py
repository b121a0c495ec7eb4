"""Low-pass filters of the alias-free generator, designed with Kaiser windows (StyleGAN3, appendix C).

A filter is the ideal low-pass response, sinc or its radially symmetric counterpart jinc, times a window whose shape
parameter follows from how wide the transition band may be (Kaiser 1974).
"""
from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def kaiser_beta(taps: int, transition: float) -> float:
    """The window's shape parameter for `taps` taps and a transition band of `transition` times the Nyquist frequency."""
    attenuation = 2.285 * (taps - 1) * math.pi * transition + 7.95            # in decibels
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0


def lowpass(taps: int, cutoff: float, half_width: float, sampling_rate: float, radial: bool = False) -> Tensor:
    """Designs a filter.

    Args:
        taps: along one axis
        cutoff: frequency in the middle of the transition band
        half_width: half the transition band's width
        sampling_rate: of the signal that is filtered; frequencies are in the same unit
        radial: whether the frequency response is to be radially symmetric

    Returns:
        float32 [taps], to be applied along both axes, or [taps, taps] where `radial`; sums to 1.
    """
    window = np.kaiser(taps, kaiser_beta(taps, 2 * half_width / (sampling_rate / 2)))
    positions = (np.arange(taps) - (taps - 1) / 2) / sampling_rate
    if not radial:
        response = np.sinc(2 * cutoff * positions) * window
        return torch.from_numpy(response / response.sum()).float()
    radius = np.hypot(positions[:, None], positions[None, :])
    safe = np.where(radius == 0, 1.0, radius)
    jinc = torch.special.bessel_j1(torch.from_numpy(2 * math.pi * cutoff * safe)).numpy() / (math.pi * safe)
    response = np.where(radius == 0, cutoff, jinc) * np.outer(window, window)
    return torch.from_numpy(response / response.sum()).float()
