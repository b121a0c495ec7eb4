"""What could be said without the network knowing anything: closed-form controls, fitted on the same bank.

`trivial`  the mean target: nothing is looked at
`latent`   ridge regression from the latent code to every pixel: what the code says linearly
`rgb`      at every pixel an affine map of the picture's own RGB: what the colour there gives away

The trained controls (`random`, `crossed`: the same fit on a network that was never trained) need no code of their own:
see `probes.fit`. Where a target has no value, the regressions take the mean there.
"""
from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from generators import Generator, State

from ._bank import Bank, batch_size

_PIXELS = 1 << 14  # of the regression at once


class Control(ABC):
    """Predicts encoded targets [N, 3, H, W] without an adapter."""

    @abstractmethod
    def predict(self, generator: Generator, state: State) -> Tensor:
        """state -> float [N, 3, H, W]."""


class Trivial(Control):
    def __init__(self, generator: Generator, bank: Bank):
        self.mean = bank.trivial

    def predict(self, generator: Generator, state: State) -> Tensor:
        return self.mean.expand(len(next(iter(state.values()))), -1, -1, -1)


class LatentRegression(Control):
    """Ridge regression, its penalty chosen on a tenth of the bank that was held out.

    A code of more than `components` numbers (a VQGAN's has thousands, one vector a position) is first reduced to its
    leading principal components on the bank.
    """

    penalties = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3, 1e4)
    components = 512

    def __init__(self, generator: Generator, bank: Bank):
        everything = slice(0, len(bank))
        x = generator.latent(bank.state(everything)).double()
        self.basis = _leading(x, min(self.components, len(x))) if x.shape[1] > self.components else None
        x = self._reduced(x)
        self.centre, self.scale = x.mean(0), x.std(0, unbiased=False) + 1e-8
        self.shape = bank.targets.shape[1:]
        x = self._features(x)
        held = max(1, len(x) // 10)
        blocks = [slice(i, i + _PIXELS) for i in range(0, math.prod(self.shape), _PIXELS)]
        errors = torch.zeros(len(self.penalties), dtype=torch.float64)
        for block in blocks:
            y = bank.filled(everything, block).double()
            for i, penalty in enumerate(self.penalties):
                errors[i] += (y[-held:] - x[-held:] @ self._solve(x[:-held], y[:-held], penalty)).square().sum()
        self.penalty = self.penalties[int(errors.argmin())]
        self.weight = torch.cat([self._solve(x, bank.filled(everything, block).double(), self.penalty).float()
                                 for block in blocks], 1)

    def _reduced(self, x: Tensor) -> Tensor:
        return x.double() if self.basis is None else (x.float() @ self.basis).double()

    def _features(self, x: Tensor) -> Tensor:
        x = (x - self.centre) / self.scale
        return torch.cat([x, x.new_ones(len(x), 1)], 1)

    @staticmethod
    def _solve(x: Tensor, y: Tensor, penalty: float) -> Tensor:
        ridge = torch.full((x.shape[1],), penalty * len(x) / 100, dtype=x.dtype)
        ridge[-1] = 0                                            # the mean is not penalised
        return torch.linalg.solve(x.T @ x + ridge.diag() + 1e-9 * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)

    def predict(self, generator: Generator, state: State) -> Tensor:
        y = self._features(self._reduced(generator.latent(state).cpu())).float() @ self.weight
        return y.view(-1, *self.shape).expand(-1, 3, -1, -1)


def _leading(x: Tensor, count: int) -> Tensor:
    """The `count` leading principal directions of the rows of x, [D, count], by randomised iteration; deterministic."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.pca_lowrank(x.float(), q=count, niter=3)[2]


class RGBRegression(Control):
    """Least squares at every pixel from (R, G, B, 1) to the target; the ridge only keeps the solution finite."""

    ridge = 1e-5

    def __init__(self, generator: Generator, bank: Bank):
        xx = xy = 0.0
        batch = batch_size(generator)
        for i in range(0, len(bank), batch):
            rows = slice(i, min(i + batch, len(bank)))
            x = self._features(generator, bank.state(rows))
            y = bank.filled(rows).view(-1, *bank.targets.shape[1:]).permute(2, 3, 0, 1)
            xx, xy = xx + x.mT @ x, xy + x.mT @ y
        penalty = self.ridge * len(bank) * torch.diag(torch.tensor([1.0, 1.0, 1.0, 1e-3]))
        self.weight = torch.linalg.solve(xx + penalty, xy)       # [H, W, 4, C]

    @staticmethod
    @torch.no_grad()
    def _features(generator: Generator, state: State) -> Tensor:
        image = generator.image(state).cpu()
        return torch.cat([image, torch.ones_like(image[:, :1])], 1).permute(2, 3, 0, 1)

    def predict(self, generator: Generator, state: State) -> Tensor:
        y = self._features(generator, state) @ self.weight       # [H, W, N, C]
        return y.permute(2, 3, 0, 1).expand(-1, 3, -1, -1)


CLOSED_FORM: dict[str, type[Control]] = {"latent": LatentRegression, "rgb": RGBRegression}
TRAINED = ("random", "crossed")
