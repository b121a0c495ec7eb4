"""The linear probe: what the frozen features say by a linear map alone (Intrinsic LoRA, arXiv 2311.17137, Table 4).

At every position, the prediction is a sum over layers l of W_l f_l + b_l, where f_l are layer l's features, brought to the
output's size by bilinear interpolation. Interpolating a linear map is the linear map of the interpolation, since the weights of
an interpolation add up to one; so the map comes first, on the few positions there are. Features are standardised channel by
channel, with mean and deviation measured once on the first pairs: again linear, and what lets one learning rate serve layers
whose features differ a hundredfold in size. Training starts from ridge regression on those pairs, since gradient descent from
zero takes hundreds of steps to undo that features resemble each other. No gradient enters the generator.
"""
from __future__ import annotations

import re
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators import Generator, State
from generators._names import unknown

from ._base import Adapter

_PLACES, _RIDGE = 256, 0.01     # pixels of an image, and the penalty, of the regression that training starts from


class Linear(Adapter):
    """One 1×1 linear map a layer, each with its own bias.

    Args:
        layers: "all", or one of `Generator.feature_sites` by name or by number, counted from 0, from the end where negative

    Raises ValueError for a generator that names no features, UnknownNameError for a layer it does not have.
    """

    method = "linear"

    def __init__(self, generator: Generator, name: str, prompt: str | None = None, layers: str | int = "all"):
        super().__init__(generator, name, prompt)
        self._chosen, self._sites = layers, _chosen(generator.feature_sites(), layers)
        features, prediction = self._features(generator.example())
        self._maps, self._scales = {}, {}
        for site, value in features.items():
            channels, outputs = value.shape[1], prediction.shape[1]
            self._maps[f"{site}.weight"] = _zeros(outputs, channels, 1, 1, device=generator.device)
            self._maps[f"{site}.bias"] = _zeros(outputs, device=generator.device)
            self._scales[f"{site}.mean"] = torch.zeros(channels, device=generator.device)
            self._scales[f"{site}.deviation"] = torch.ones(channels, device=generator.device)

    @property
    def options(self) -> dict:
        return dict(layers=self._chosen)

    def parameters(self) -> dict[str, nn.Parameter]:
        """{layer}.weight [outputs, channels, 1, 1], {layer}.bias [outputs]."""
        return dict(self._maps)

    def buffers(self) -> dict[str, Tensor]:
        """{layer}.mean and {layer}.deviation [channels], of its features."""
        return dict(self._scales)

    @property
    def site_names(self) -> list[str]:
        return list(self._sites)

    @torch.no_grad()
    def _features(self, state: State) -> tuple[dict[str, Tensor], Tensor]:
        """(the layers' features by name, float32 [N, C, h, w]; what the generator draws)."""
        found: dict[str, Tensor] = {}

        def keep(site: str):
            def hook(module: nn.Module, arguments: tuple, output: Tensor | tuple) -> None:
                value = output[0] if isinstance(output, tuple) else output
                if value.ndim != 4:
                    raise ValueError(f"layers: {site} gives {list(value.shape)}, expected a feature map [N, C, h, w]")
                found[site] = value.detach().float()

            return hook

        handles = [self.generator.network.get_submodule(site).register_forward_hook(keep(site)) for site in self._sites]
        try:
            with self.generator.thawed(), self.generator.prompted(self.prompt):
                drawn = self.generator.forward(state)
        finally:
            for handle in handles:
                handle.remove()
        return {site: found[site] for site in self._sites}, drawn

    @torch.no_grad()
    def calibrate(self, state: State, target: Tensor) -> None:
        """Measures every channel's mean and deviation over the pixels of these pictures, and fits the maps to the targets by
        ridge regression."""
        features = self._features(state)[0]
        for site, value in features.items():
            deviation, mean = torch.std_mean(value, (0, 2, 3), correction=0)
            self._scales[f"{site}.mean"].copy_(mean)
            # A channel that never moves says nothing; it must not be blown up where it moves a little later.
            self._scales[f"{site}.deviation"].copy_(deviation.clamp_min(1e-3 * deviation.max().clamp_min(1e-8)))
        standard = {site: self._standard(site, value) for site, value in features.items()}
        for site, weight in _ridge(standard, target.to(self.generator.device)).items():
            self._maps[f"{site}.weight"].data.copy_(weight[:, :-1, None, None])
            self._maps[f"{site}.bias"].data.copy_(weight[:, -1])

    def _standard(self, site: str, value: Tensor) -> Tensor:
        return (value - _column(self._scales[f"{site}.mean"])) / _column(self._scales[f"{site}.deviation"])

    def forward(self, state: State) -> Tensor:
        features, drawn = self._features(state)
        total: Tensor | float = 0.0
        for site, value in features.items():
            said = F.conv2d(self._standard(site, value), self._maps[f"{site}.weight"], self._maps[f"{site}.bias"])
            total = total + F.interpolate(said, drawn.shape[2:], mode="bilinear", align_corners=False)
        return total

    def regress(self, state: State, target: Tensor, seeds: list[int] | None = None) -> tuple[Tensor, Tensor]:
        return self.forward(state), target


def _ridge(features: dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
    """The linear maps, {site: [outputs, channels + 1]} with the bias behind, whose sum is nearest to the target in the squares.

    Args:
        features: {site: [N, C, h, w]}, standardised
        target: [N, outputs, H, W]; pixels that are NaN in any output have no part in it
    """
    width = sum(value.shape[1] for value in features.values()) + 1
    gram = torch.zeros(width, width, dtype=torch.float64, device=target.device)
    moment = torch.zeros(width, target.shape[1], dtype=torch.float64, device=target.device)
    for i in range(len(target)):
        # Every image gives as many pixels, at places of its own: neighbours say nearly the same.
        places = torch.randperm(target[0, 0].numel(), generator=torch.Generator().manual_seed(i))[:_PLACES].to(target.device)
        y = target[i].flatten(1)[:, places].T
        x = torch.cat([*(F.interpolate(value[i:i + 1], target.shape[2:], mode="bilinear", align_corners=False)[0].flatten(1)
                         [:, places].T for value in features.values()), torch.ones_like(y[:, :1])], 1)
        known = ~y.isnan().any(1)
        x, y = x[known].double(), y[known].double()
        gram += x.T @ x
        moment += x.T @ y
    count = gram[-1, -1].clamp_min(1.0)
    penalty = torch.full((width,), _RIDGE, dtype=torch.float64, device=target.device)
    penalty[-1] = 1e-6
    found = torch.linalg.solve(gram / count + penalty.diag(), moment / count).T.float()
    split, maps = found[:, :-1].split([value.shape[1] for value in features.values()], 1), {}
    for i, (site, weight) in enumerate(zip(features, split, strict=True)):
        maps[site] = torch.cat([weight, found[:, -1:] if i == 0 else torch.zeros_like(found[:, -1:])], 1)
    return maps


def _chosen(sites: list[str], layers: str | int) -> list[str]:
    if layers == "all":
        return sites
    number = int(layers) if re.fullmatch("-?[0-9]+", str(layers)) else None
    if number is not None or isinstance(layers, Integral) and not isinstance(layers, bool):
        if not -len(sites) <= number < len(sites):
            raise ValueError(f"layers: expected a number in {-len(sites)} … {len(sites) - 1}, got {layers}; the layers are "
                             f"{', '.join(sites)}")
        return [sites[number]]
    if layers not in sites:
        raise unknown("layers", layers, ["all", *sites])
    return [layers]


def _zeros(*shape: int, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape, device=device), requires_grad=False)


def _column(value: Tensor) -> Tensor:
    return value[:, None, None]
