"""filtered_lrelu against its steps written one after the other; gradients; tiles; the kernel without a GPU."""
import ctypes
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from emulator import compiled
from test_ops import definition, image, nvcc
from torch.autograd import gradcheck, gradgradcheck

from generators.ops import _composed_filtered_lrelu as composed
from generators.ops import _torch_filtered_lrelu as products
from generators.ops import bias_act, filtered_lrelu, setup_filter, upfirdn2d
from generators.ops._dispatch import TORCH
from generators.ops._extension import CSRC
from generators.ops._native import Native, _fused

GOLDEN = Path(__file__).parent / "golden"


def steps(x, fu, fd, b, up, down, padding, gain=2**0.5, slope=0.2, clamp=None):
    """What the op is defined as, in numpy loops (`definition`) and formulas."""
    up, down = ((n, n) if isinstance(n, int) else n for n in (up, down))
    u = definition(x.double() + b.double()[:, None, None], [[1.0]] if fu is None else fu, up, (1, 1), padding,
                   gain=up[0] * up[1])
    u = torch.where(u > 0, u, slope * u) * gain
    u = u if clamp is None else u.clamp(-clamp, clamp)
    return definition(u, [[1.0]] if fd is None else fd, (1, 1), down)


SYMMETRIC = setup_filter([1, 2, 4, 7, 9, 11, 11, 9, 7, 4, 2, 1]).double()
LOPSIDED = setup_filter([1, 5, 2, 3, 7]).double()
SQUARE = setup_filter([[1, 2, 3], [4, 5, 7], [6, 1, 2], [3, 2, 5]]).double()
RADIUS = torch.hypot(*torch.meshgrid(*2 * [torch.arange(12.0) - 5.5], indexing="ij")).double()
RADIAL = setup_filter(torch.special.bessel_j1(1.5 * RADIUS) / RADIUS).double()  # a jinc: no outer product

# fu, fd, up, down, padding (x0, x1, y0, y1)
CASES = {
    "layer": (SYMMETRIC, SYMMETRIC, 2, 2, (9, 8, 9, 8)),
    "radial": (SYMMETRIC, RADIAL, 2, 2, (9, 8, 9, 8)),
    "doubling": (setup_filter(torch.hann_window(24, periodic=False)[1:-1]).double(), LOPSIDED, 4, 2, (-6, -9, -6, -9)),
    "lopsided": (SQUARE, LOPSIDED, (3, 2), (1, 3), (4, -2, 3, 5)),
    "radial-up": (RADIAL, SQUARE, 2, 1, (6, 5, 4, 5)),
    "no-up-filter": (None, LOPSIDED, 1, 2, (2, 2, 2, 2)),
    "no-down-filter": (LOPSIDED, None, 3, 1, (3, 2, 0, 3)),
    "wide-padding": (LOPSIDED, LOPSIDED, 2, 2, (60, -3, 0, 70)),
    "cropped": (LOPSIDED, LOPSIDED, 2, 2, (-15, -3, 1, -11)),
}


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("name", CASES)
def test_it_is_its_definition(name, clamp):
    fu, fd, up, down, padding = CASES[name]
    x, b = image(2, 3, 21, 23), image(3, seed=1)
    expected = steps(x, fu, fd, b, up, down, padding, 1.3, 0.3, clamp)
    for layout in (torch.contiguous_format, torch.channels_last):
        got = filtered_lrelu(x.contiguous(memory_format=layout), fu, fd, b, up, down, padding, 1.3, 0.3, clamp)
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
        assert got.is_contiguous(memory_format=layout)
    assert torch.equal(filtered_lrelu(x, fu, fd, None, up, down, padding),
                       filtered_lrelu(x, fu, fd, torch.zeros(3), up, down, padding))


@pytest.mark.parametrize("name", CASES)
def test_the_gradients_are_those_of_the_steps(name):
    fu, fd, up, down, padding = CASES[name]
    factor = up * up if isinstance(up, int) else up[0] * up[1]
    inputs = image(2, 3, 21, 23, seed=2).requires_grad_(), image(3, seed=3).requires_grad_()

    def separate(x, b):
        u = upfirdn2d(x + b[:, None, None], fu, up, padding=padding, gain=factor)
        return upfirdn2d(bias_act(u, act="lrelu", clamp=0.9), fd, down=down)

    def orders(run):
        y = run(*inputs)
        dy = image(*y.shape, seed=4).requires_grad_()
        first = torch.autograd.grad(y, inputs, dy, create_graph=True)
        second, = torch.autograd.grad(first, dy, [image(*g.shape, seed=5) for g in first])
        return *first, second

    for got, expected in zip(orders(lambda x, b: filtered_lrelu(x, fu, fd, b, up, down, padding, clamp=0.9)),
                             orders(separate), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_gradcheck():
    x, b = image(1, 2, 5, 6).requires_grad_(), image(2, seed=1).requires_grad_()
    for fd, up, padding in ((LOPSIDED, 2, (5, 4, 4, 5)), (SQUARE, (1, 3), (2, 1, 3, -1))):
        def run(x, b, fd=fd, up=up, padding=padding):
            return filtered_lrelu(x, LOPSIDED, fd, b, up, 2, padding, slope=0.4, clamp=1.1)
        assert gradcheck(run, (x, b)) and gradgradcheck(run, (x, b))


@pytest.mark.parametrize("name", ["layer", "radial", "doubling", "lopsided"])
def test_tiles_and_chunks_do_not_show(name, monkeypatch):
    fu, fd, up, down, padding = CASES[name]
    x, b = image(3, 5, 61, 70), image(5, seed=1)
    arguments = (fu, fd, b, up, down, padding)

    def both():
        products._jobs.cache_clear()
        leaf = x.clone().requires_grad_()
        y = filtered_lrelu(leaf, *arguments, clamp=2)
        return y.detach(), torch.autograd.grad(y.square().sum(), leaf)[0]
    whole = both()
    for tile, blocks, size in (((7, 9), (5, 6), 1), ((13, 200), (9, 300), 1 << 16), ((200, 6), (300, 4), 1 << 18)):
        monkeypatch.setattr(products, "_TILE", tile)
        monkeypatch.setattr(products, "_BLOCKS", blocks)
        monkeypatch.setattr(products, "_CHUNK", size)
        for got, expected in zip(both(), whole, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
    products._jobs.cache_clear()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_composition_agrees(name, transposed):
    fu, fd, up, down, padding = CASES[name]
    one = torch.ones(1, dtype=torch.float64)
    fu, fd = (one if f is None else f for f in (fu, fd))
    pair = tuple((n, n) if isinstance(n, int) else n for n in (up, down))
    spec = products.Spec(*pair, padding, 1.3, 0.2, 0.8)
    x, b = image(2, 3, 21, 23), image(3, seed=1)
    y = composed.forward(TORCH, x, b, fu, fd, spec)
    torch.testing.assert_close(y, products.run(x, b, fu, fd, spec), rtol=1e-11, atol=1e-11)
    v = image(*(y if transposed else x).shape, seed=2)
    torch.testing.assert_close(composed.derivative(TORCH, v.clone(), x, b, fu, fd, spec, transposed),
                               products.run(x, b, fu, fd, spec, v, transposed), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 2e-6), (torch.float16, 4e-3), (torch.bfloat16, 4e-2)])
def test_types_strides_and_inputs_left_alone(dtype, tolerance):
    f, b = SYMMETRIC.float(), image(6, seed=1)
    base = image(2, 12, 20, 18, dtype=dtype)
    for x in (base[:, ::2], base[:, :6].permute(0, 1, 3, 2), base[:, :1].expand(-1, 6, -1, -1)):
        before, leaf = x.clone(), x.detach().requires_grad_()
        y = filtered_lrelu(leaf, f, f, b, 2, 2, (9, 8, 9, 8), clamp=256)
        expected = steps(x, f, f, b, 2, 2, (9, 8, 9, 8))
        assert y.dtype == dtype and torch.equal(x, before)
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance * expected.abs().max().item())
        dy = torch.ones_like(y)
        dx, = torch.autograd.grad(y, leaf, dy)
        assert dx.dtype == dtype and torch.equal(dy, torch.ones_like(dy))


def test_a_clamp_that_is_never_reached_changes_nothing_and_one_that_is_does():
    x, f = image(1, 2, 20, 20), SYMMETRIC
    free = filtered_lrelu(x, f, f, None, 2, 2, 8)
    assert torch.equal(filtered_lrelu(x, f, f, None, 2, 2, 8, clamp=256), free)
    x[0, 0, 10, 10] = 1e4
    clamped = filtered_lrelu(x, f, f, None, 2, 2, 8, clamp=256)
    assert clamped.abs().max() < 2 * 256 < filtered_lrelu(x, f, f, None, 2, 2, 8).abs().max()
    x[0, 0, 10, 10] = torch.nan
    assert filtered_lrelu(x, f, f, None, 2, 2, 8, clamp=256).isnan().any()


def test_the_sizes_of_every_golden_layer():
    files = sorted(GOLDEN.glob("stylegan-xl-*.json"))
    if not files:
        pytest.skip("no golden data of StyleGAN-XL here")
    for file in files:
        layers, arrays = json.loads(file.read_text())["layers"], np.load(file.with_suffix(".npz"))
        for name, layer in layers.items():
            width, height = (size + layer["conv_kernel"] - 1 for size in layer["in_size"])
            fu, fd = (torch.from_numpy(arrays[f"{name}.{way}_filter"]) if f"{name}.{way}_filter" in arrays else None
                      for way in ("up", "down"))
            y = filtered_lrelu(torch.zeros(1, 2, height, width), fu, fd, torch.zeros(2), layer["up_factor"],
                               layer["down_factor"], layer["padding"], clamp=layer["conv_clamp"])
            assert list(y.shape[:1:-1]) == layer["out_size"], name


def test_autocast_empty_batches_and_float32_biases():
    f, x, b = SYMMETRIC.float(), image(2, 3, 9, 9, dtype=torch.bfloat16), torch.ones(3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = filtered_lrelu(x, f, f, b, 2, 2, 8)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and b.grad.dtype == torch.float32 and b.grad.abs().min() > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):  # float32 in, float32 precision
        y = filtered_lrelu(x.float(), f, f, b, 2, 2, 8)
    torch.testing.assert_close(y.double(), steps(x, f, f, b.detach(), 2, 2, (8, 8, 8, 8)), rtol=1e-5, atol=1e-5)
    x = torch.zeros(0, 3, 9, 9, requires_grad=True)
    filtered_lrelu(x, f, f, b, 2, 2, 8).sum().backward()
    assert x.grad.shape == x.shape


def test_without_filters_it_is_bias_act():
    x, b = image(2, 3, 5, 5), image(3)
    torch.testing.assert_close(filtered_lrelu(x, b=b, gain=1, slope=1), x + b[:, None, None], rtol=0, atol=0)
    assert torch.equal(filtered_lrelu(x, b=b, clamp=1), bias_act(x, b, act="lrelu", clamp=1))


X, F5 = torch.zeros(1, 2, 8, 8), torch.ones(5)


@pytest.mark.parametrize("call,error,words", [
    (lambda: filtered_lrelu(X[0], F5), ValueError, r"x: 4 dimensions .* got shape \(2, 8, 8\)"),
    (lambda: filtered_lrelu(X.int(), F5), TypeError, "x: float32, .* got torch.int32"),
    (lambda: filtered_lrelu(X, [1, 2]), TypeError, "fu: a tensor expected, got list"),
    (lambda: filtered_lrelu(X, F5, torch.ones(1, 1, 2)), ValueError, r"fd: \[taps\] or \[height, width\]"),
    (lambda: filtered_lrelu(X, F5, F5.int()), TypeError, "fd: floating point expected"),
    (lambda: filtered_lrelu(X, F5.to("meta")), ValueError, "fu: expected on the device of x, cpu, got meta"),
    (lambda: filtered_lrelu(X, F5, F5, torch.zeros(3)), ValueError, r"b: shape \(2,\) expected, one for each channel"),
    (lambda: filtered_lrelu(X, F5, F5, [0, 0]), TypeError, "b: a tensor or None expected, got list"),
    (lambda: filtered_lrelu(X, F5, up=0), ValueError, "up: at least 1 expected, got 0"),
    (lambda: filtered_lrelu(X, F5, padding=(1, 2, 3)), ValueError, "padding: an int or 2 or 4 ints expected, got 3"),
    (lambda: filtered_lrelu(X, F5, gain=0), ValueError, "gain: a finite number above 0 expected, got 0"),
    (lambda: filtered_lrelu(X, F5, slope=-0.1), ValueError, "slope: at least 0 expected, got -0.1"),
    (lambda: filtered_lrelu(X, F5, clamp=-1), ValueError, "clamp: a limit >= 0, or None"),
    (lambda: filtered_lrelu(X, F5, F5), ValueError, "fu, fd: filters of 5 and 5 taps leave nothing of an image of 8×8"),
])
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_opcheck():
    f, b = setup_filter([1, 3, 3, 1]), torch.zeros(3, requires_grad=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = image(2, 3, 6, 5, dtype=torch.float32).contiguous(memory_format=layout).requires_grad_()
        arguments = [2, 2], [2, 2], [4, 3, 4, 3], 1.4, 0.2, 3.0
        torch.library.opcheck(torch.ops.probes.filtered_lrelu, (x, f, f, b, *arguments, True))
        y, mask = torch.ops.probes.filtered_lrelu(x, f, f, b, *arguments, True)
        v = torch.randn_like(y).requires_grad_()
        torch.library.opcheck(torch.ops.probes.filtered_lrelu_derivative,
                              (v, x.detach(), mask, f, f, b.detach(), [6, 5], *arguments, True))


# The CUDA kernel, without a GPU: its own source runs on CPU threads (csrc/emulate.h), and nvcc compiles it.

class Axis(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int)
                for name in ("size", "middle", "out", "up", "down", "pad_in", "pad_out", "taps_in", "taps_out")]


class Params(ctypes.Structure):
    _fields_ = [("x", Axis), ("y", Axis), ("planes", ctypes.c_int64), ("channels", ctypes.c_int64),
                ("slope", ctypes.c_double), ("clamp", ctypes.c_double), ("mode", ctypes.c_int), ("tile", ctypes.c_int * 2)]


@pytest.fixture(scope="session")
def kernel(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("kernels") / "filtered_lrelu.so", "filtered_lrelu.cu")


class Emulated(Native):
    """The CUDA implementation with the kernel under the emulator in the place of its binding."""

    def __init__(self, library):
        self.library = library

    def upfirdn2d_pass(self, x, spec):
        raise AssertionError("the composition ran, not the kernel")

    def _fused_op(self, x, b, taps, mask, axis_x, axis_y, slope, clamp, mode):
        y = torch.full((*x.shape[:2], axis_y[2], axis_x[2]), torch.nan, dtype=x.dtype)
        params = Params(Axis(*axis_x), Axis(*axis_y), x.shape[0] * x.shape[1], x.shape[1], slope, clamp, mode)
        pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in (x, b, taps, y, mask)]
        code = int(x.dtype == torch.float64)
        assert self.library.probes_filtered_lrelu(code, *pointers, ctypes.byref(params), None) == 0
        return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["layer", "doubling", "no-up-filter", "no-down-filter", "wide-padding", "cropped",
                                  "unequal-factors"])
def test_the_kernel_emulated(name, dtype, kernel):
    unequal = (LOPSIDED, SYMMETRIC, (3, 1), (1, 2), (8, 9, 7, 8))
    fu, fd, up, down, padding = CASES.get(name, unequal)
    fu, fd = (torch.ones(1, dtype=dtype) if f is None else f.to(dtype) for f in (fu, fd))
    pair = tuple((n, n) if isinstance(n, int) else n for n in (up, down))
    spec = products.Spec(*pair, padding, 1.3, 0.25, 0.8)
    emulated, size = Emulated(kernel), (41, 45) if name == "layer" else (21, 23)  # more than a tile, and less than one
    x, b = image(1, 2, *size, dtype=dtype), image(2, seed=1, dtype=dtype)
    exact = [t.double() for t in (x, b, fu, fd)]
    close = dict(rtol=1e-5, atol=1e-5)
    y, mask = emulated.filtered_lrelu(x, b, fu, fd, spec, True)
    torch.testing.assert_close(y.double(), products.run(*exact, spec), **close)
    assert mask.dtype == torch.uint8 and tuple(mask.shape) == emulated.mask_size(x, fu, fd, spec, True)
    kept, none = emulated.filtered_lrelu(x, b, fu, fd, spec, False)
    assert torch.equal(kept, y) and none.numel() == 0
    for transposed in (True, False):
        v = image(*(y if transposed else x).shape, seed=2, dtype=dtype)
        got = emulated.filtered_lrelu_derivative(v, None, None, mask, fu, fd, x.shape[2:], spec, transposed)
        torch.testing.assert_close(got.double(), products.run(*exact, spec, v.double(), transposed), **close)


def test_what_does_not_fit_the_kernel_is_composed():
    f, long = SYMMETRIC.float(), torch.ones(200)
    layer = products.Spec((2, 2), (2, 2), (9, 8, 9, 8), 1.0, 0.2, -1.0)
    x = image(1, 2, 200, 200, dtype=torch.float32)
    assert _fused(x, f, f, layer) and _fused(x.double(), f, f, layer)
    assert not _fused(x, f, RADIAL.float(), layer) and not _fused(x, long, f, layer)
    assert _fused(x, torch.ones(24), f, layer._replace(up=(4, 4)))


@pytest.mark.parametrize("architectures", [(80,), pytest.param((75, 80, 86, 89, 90), marks=pytest.mark.slow)])
def test_the_kernel_compiles(architectures, tmp_path):
    targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in architectures]
    nvcc(CSRC / "filtered_lrelu.cu", tmp_path / "kernel.o", "-std=c++17", "-O3" if len(targets) > 1 else "-O1", *targets)
