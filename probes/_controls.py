"""What could be said without the network knowing anything: closed-form controls, fitted on the same bank.

`trivial`  the mean target: nothing is looked at
`latent`   ridge regression from the latent code to every pixel: what the code says linearly
`rgb`      at every pixel an affine map of the picture's own RGB: what the colour there gives away

The trained controls are the same fit again: `random` and `crossed` on a network that was never trained, which needs no code of
its own (see `probes.fit`), and `shuffled` on targets that belong to other pictures, which shows what a fit of this size makes
of pairs that have nothing to say. Pixels without a value have no part in a regression.
"""
from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
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
    leading principal components on the other nine tenths. These keep their own scales, so that the penalty is strongest on
    the last, which say least and fit the bank best: brought to one scale, they are noise on images of others.
    """

    penalties = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3, 1e4)
    components = 512
    rounds = 10         # of filling in what targets do not say

    def __init__(self, generator: Generator, bank: Bank):
        everything = slice(0, len(bank))
        x = generator.latent(bank.state(everything)).double()
        held = max(1, len(x) // 10)
        self.basis = _leading(x[:-held], min(self.components, len(x) - held)) if x.shape[1] > self.components else None
        x = self._reduced(x)
        self.centre, self.scale = x.mean(0), x.std(0, unbiased=False) + 1e-8
        if self.basis is not None:
            self.scale = self.scale.square().mean().sqrt()
        self.shape = bank.targets.shape[1:]
        x = self._features(x)
        blocks = [slice(i, i + _PIXELS) for i in range(0, math.prod(self.shape), _PIXELS)]
        errors = torch.zeros(len(self.penalties), dtype=torch.float64)
        for block in blocks:
            y = self._complete(x, bank, block)
            for i, penalty in enumerate(self.penalties):
                errors[i] += (y[-held:] - x[-held:] @ self._solve(x[:-held], y[:-held], penalty)).square().sum()
        self.penalty = self.penalties[int(errors.argmin())]
        self.weight = torch.cat([self._solve(x, self._complete(x, bank, block), self.penalty).float() for block in blocks], 1)

    def _complete(self, x: Tensor, bank: Bank, block: slice) -> Tensor:
        """Targets of a block of pixels; where there is no value, what the regression on the others says, to which a few rounds
        of filling and fitting come close (expectation maximisation): the mean there would teach it the mean."""
        y = bank.filled(slice(0, len(bank)), block).double()
        missing = torch.from_numpy(np.isnan(bank.targets.reshape(len(bank), -1)[:, block]))
        for _ in range(self.rounds if missing.any() else 0):
            y = torch.where(missing, x @ self._solve(x, y, 1.0), y)
        return y

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
            y = torch.from_numpy(bank.targets[rows].astype(np.float32)).permute(2, 3, 0, 1)
            seen = (~y.isnan()).all(-1, keepdim=True)           # a pixel without a value has no say
            weighted = x * seen
            xx, xy = xx + weighted.mT @ x, xy + weighted.mT @ y.nan_to_num(0.0)
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
UNTRAINED = ("random", "crossed")           # networks that were never trained
TRAINED = (*UNTRAINED, "shuffled")          # controls that are fits


class Shuffled:
    """A bank whose every state goes with another state's target, by a random cycle: no pair is right.

    Args:
        bank: at least two pairs
        seed: of the cycle
    """

    def __init__(self, bank: Bank, seed: int):
        order = np.random.Generator(np.random.Philox(key=[seed, 1 << 62])).permutation(len(bank))
        self.bank, self.other = bank, np.empty_like(order)
        self.other[order] = np.roll(order, 1)

    def __len__(self) -> int:
        return len(self.bank)

    def state(self, indices: np.ndarray | slice) -> State:
        return self.bank.state(indices)

    def batch(self, indices: np.ndarray | slice) -> tuple[State, Tensor]:
        return self.bank.state(indices), self.bank.batch(self.other[indices])[1]

    def lesson(self, indices: np.ndarray | slice) -> tuple[State, Tensor]:
        return self.bank.state(indices), self.bank.lesson(self.other[indices])[1]
