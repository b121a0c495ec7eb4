"""Every implementation against the torch one in float64 on the CPU: result, first and second order gradients."""
from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ._bias_act import bias_act
from ._dispatch import SWITCH
from ._filtered_lrelu import filtered_lrelu
from ._filters import setup_filter
from ._torch_bias_act import ACTIVATIONS, expand_bias
from ._upfirdn2d import upfirdn2d

# Of the largest magnitude in the reference. The types' own roundings are 6e-8, 5e-4 and 4e-3; torch rounds the filter
# and every intermediate to them.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 8e-3, torch.bfloat16: 6e-2}


class Row(NamedTuple):
    """Largest relative errors of one op in one implementation, over all configurations."""

    implementation: str
    op: str
    dtype: torch.dtype
    configurations: int
    forward: float
    first: float
    second: float

    @property
    def passed(self) -> bool:
        return max(self[4:]) <= TOLERANCE[self.dtype]


@contextlib.contextmanager
def switched(value: str) -> Iterator[None]:
    """PROBES_OPS for the length of a block."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def _random(*shape: int, seed: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (values * 256).round() / 256  # exact in 16 bits, almost: the inputs' rounding is not what is measured


def _upfirdn2d_cases() -> list[tuple[Callable, tuple[Tensor, ...]]]:
    small, long = setup_filter([1, 3, 3, 1]), setup_filter([1, 2, 4, 7, 9, 11, 11, 9, 7, 4, 2, 1])
    lopsided = setup_filter([[1, 2, 3], [4, 5, 7], [6, 1, 2], [3, 2, 5]])
    large = setup_filter(torch.linspace(1, 2, 23 * 19).reshape(23, 19))
    configurations = [
        dict(f=small, padding=(2, 1, 2, 1)), dict(f=small, up=2, padding=(2, 1, 2, 1), gain=4),
        dict(f=small, down=2, padding=1), dict(f=setup_filter([1, 3, 3, 1], separable=False), down=2, padding=1),
        dict(f=long, up=2, padding=(6, 5, 6, 5)), dict(f=long, down=2, padding=5), dict(f=long, padding=(6, 5)),
        dict(f=lopsided, up=(3, 2), down=(2, 1), padding=(4, -1, -2, 3), gain=0.7),
        dict(f=lopsided, up=2, down=3, padding=(-3, 5, 2, 2), flip_filter=True), dict(f=None, up=3),
        dict(f=large, padding=(9, 9, 11, 11)), dict(f=large, down=4, padding=20),
        dict(f=small, up=4, down=2, padding=3),
    ]
    cases = []
    for number, configuration in enumerate(configurations):
        # 40 wide: more than a tile; 7 wide: less than one
        for size in ((2, 3, 37, 40), (1, 5, 9, 7)):
            def run(x, configuration=configuration):
                f = configuration["f"]
                return upfirdn2d(x, **{**configuration, "f": None if f is None else f.to(x.device)})
            cases.append((run, (_random(*size, seed=number),)))
    return cases


def _off_the_kinks(x: Tensor, b: Tensor, dim: int, options: dict) -> Tensor:
    """x with the elements moved that rounding could carry across a kink, where gradients may rightly differ."""
    bias = expand_bias(b, x.ndim, dim)
    y = bias_act(x, b, dim=dim, **{**options, "clamp": None})
    near = ((x + bias).abs() < 0.05) | ((y.abs() - options.get("clamp", torch.inf)).abs() < 0.05)
    return torch.where(near, 0.3 - bias, x)


def _bias_act_cases() -> list[tuple[Callable, tuple[Tensor, ...]]]:
    cases = []
    for act in ACTIVATIONS:
        for shape, dim, options in (((2, 5, 7, 9), 1, {}), ((3, 8, 6, 4), 1, dict(clamp=0.6, gain=-1.3)),
                                    ((33, 17), 1, dict(clamp=1.0)), ((4, 6, 5), 2, dict(gain=0.5))):
            options = dict(options, act=act)

            def run(x, b, dim=dim, options=options):
                return bias_act(x, b, dim=dim, **options)

            x, b = _random(*shape, seed=len(cases)), _random(shape[dim], seed=len(cases) + 1)
            cases.append((run, (_off_the_kinks(x, b, dim, options), b)))
    return cases


def _filtered_lrelu_cases() -> list[tuple[Callable, tuple[Tensor, ...]]]:
    short, middle = setup_filter([1, 3, 2, 1]), setup_filter([1, 2, 4, 7, 9, 11, 11, 9, 7, 4, 2, 1])
    long, square = setup_filter(torch.hann_window(26, periodic=False)[1:-1]), setup_filter([[1, 2, 3], [4, 5, 7]])
    layer = dict(fu=middle, fd=middle, up=2, down=2)
    configurations = [
        dict(layer, padding=(9, 8, 9, 8)), dict(layer, fu=long, up=4, padding=(-6, -9, -6, -9)),
        dict(layer, padding=(-11, -12, -11, -12), clamp=20.0), dict(fu=short, fd=middle, up=(3, 1), down=(1, 2), padding=8),
        dict(layer, fd=square, padding=(5, 9, 4, 8)), dict(fu=short, up=2, padding=(3, 0, 1, 6), slope=0.0, gain=0.6),
        dict(fu=torch.ones(200) / 200, fd=long, up=3, down=5, padding=150),  # larger than shared memory
    ]
    cases = []
    for number, configuration in enumerate(configurations):
        for size in ((2, 3, 37, 41), (1, 4, 34, 29)):
            def run(x, b, configuration=configuration):
                moved = {k: v.to(x.device) if isinstance(v, Tensor) else v for k, v in configuration.items()}
                return filtered_lrelu(x, b=b, **moved)
            # Off the kinks, as the filters have no negative taps: a channel keeps its sign, and its side of the clamp.
            channel = torch.tensor([1.0, -1.0, 64.0, -1.0], dtype=torch.float64)[:size[1], None, None]
            x = channel * (1 + _random(*size, seed=number).sin() / 4)
            cases.append((run, (x, channel[:, 0, 0] / 8)))
    return cases


def _orders(run: Callable, inputs: tuple[Tensor, ...]) -> list[list[Tensor]]:
    """Result, gradients and gradients of the gradients, along fixed random directions."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = run(*inputs)
    dy = _random(*y.shape, seed=71).to(y).requires_grad_()
    first = torch.autograd.grad(y, inputs, dy, create_graph=True)
    directions = [_random(*g.shape, seed=72 + i).to(g) for i, g in enumerate(first)]
    second = torch.autograd.grad(first, [*inputs, dy], directions, allow_unused=True)
    return [[y.detach()], [g.detach() for g in first], [g for g in second if g is not None]]


def _error(got: list[Tensor], expected: list[Tensor]) -> float:
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape or not torch.isfinite(a).all():
            return float("inf")
        if b.numel():
            worst = max(worst, ((a.cpu().double() - b).abs().max() / b.abs().max().clamp_min(1)).item())
    return worst


def check(name: str, switch: str, device: str) -> list[Row]:
    """Rows for the implementation that PROBES_OPS=`switch` selects for tensors on `device`."""
    rows = []
    with torch.backends.cudnn.flags(allow_tf32=False):
        for op, cases in (("upfirdn2d", _upfirdn2d_cases()), ("bias_act", _bias_act_cases()),
                          ("filtered_lrelu", _filtered_lrelu_cases())):
            for dtype in TOLERANCE:
                worst, count = [0.0, 0.0, 0.0], 0
                for run, inputs in cases:
                    inputs = tuple(x.to(dtype) for x in inputs)
                    with switched("torch"):
                        expected = _orders(run, tuple(x.double() for x in inputs))
                    # channels_last is not only another memory order but another kernel
                    for last in (False, True) if inputs[0].ndim == 4 else (False,):
                        moved = [x.to(device) for x in inputs]
                        if last:
                            moved[0] = moved[0].contiguous(memory_format=torch.channels_last)
                        with switched(switch):
                            got = _orders(run, tuple(moved))
                        worst = [max(w, _error(a, b)) for w, a, b in zip(worst, got, expected, strict=True)]
                        count += 1
                rows.append(Row(name, op, dtype, count, *worst))
    return rows
