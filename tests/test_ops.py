"""upfirdn2d and bias_act against their definitions, written out as loops and formulas; gradients; the build road."""
import ctypes
import itertools
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emulator import compiled
from torch.autograd import gradcheck, gradgradcheck

from generators.ops import __main__ as command
from generators.ops import _dispatch, bias_act, setup_filter, upfirdn2d
from generators.ops._check import Row, check, switched
from generators.ops._extension import CSRC, EXTENSIONS, Extension, first_error
from generators.ops._torch_bias_act import ACTIVATIONS

FILTERS = {"3": [1.0, 2, 5], "4x2": [[1.0, 2], [3, 4], [5, 6], [7, 9]], "1": [2.0], "9": list(range(1, 10))}


def definition(x, f, up=(1, 1), down=(1, 1), padding=(0, 0, 0, 0), flip_filter=False, gain=1.0):
    """The definition, one step after the other: insert zeros, pad or crop, slide the filter, keep every down-th."""
    x, f = x.double().numpy(), np.asarray(f, dtype=np.float64)
    f = np.outer(f, f) if f.ndim == 1 else f
    n, c, h, w = x.shape
    z = np.zeros((n, c, h * up[1], w * up[0]))
    z[:, :, ::up[1], ::up[0]] = x
    x0, x1, y0, y1 = padding
    z = np.pad(z, ((0, 0), (0, 0), (max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))))
    z = z[:, :, max(-y0, 0):z.shape[2] - max(-y1, 0), max(-x0, 0):z.shape[3] - max(-x1, 0)]
    f = f if flip_filter else f[::-1, ::-1]
    out = np.zeros((n, c, z.shape[2] - f.shape[0] + 1, z.shape[3] - f.shape[1] + 1))
    for i, j in itertools.product(range(f.shape[0]), range(f.shape[1])):
        out += f[i, j] * z[:, :, i:i + out.shape[2], j:j + out.shape[3]]
    return torch.from_numpy(out[:, :, ::down[1], ::down[0]] * gain)


def image(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (9, 9, 9, 9), (2, 1, 3, 0), (-1, 3, 2, -2), (20, -3, 0, 11)])
@pytest.mark.parametrize("down", [(1, 1), (2, 2), (3, 1), (1, 4)])
@pytest.mark.parametrize("up", [(1, 1), (2, 2), (3, 2), (1, 4)])
def test_upfirdn2d_is_its_definition(up, down, padding):
    x = image(2, 3, 11, 12)
    for taps, flip, layout in itertools.product(FILTERS.values(), (False, True), ("contiguous_format", "channels_last")):
        expected = definition(x, taps, up, down, padding, flip, 1.7)
        f = torch.tensor(taps, dtype=torch.float64)
        got = upfirdn2d(x.contiguous(memory_format=getattr(torch, layout)), f, up, down, padding, flip, 1.7)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-11)
        assert got.is_contiguous(memory_format=getattr(torch, layout))


def test_long_separable_filters_equal_their_outer_product():
    x, taps = image(1, 2, 30, 31), setup_filter([1, 2, 4, 7, 9, 11, 11, 9, 7, 4, 2, 1]).double()
    for options in (dict(padding=6), dict(up=2, padding=(6, 5)), dict(down=2, padding=5, flip_filter=True, gain=3)):
        torch.testing.assert_close(upfirdn2d(x, taps, **options), upfirdn2d(x, torch.outer(taps, taps), **options))


def test_padding_and_factors_may_be_short():
    x, f = image(1, 1, 6, 5), setup_filter([1, 3, 3, 1])
    assert torch.equal(upfirdn2d(x, f, padding=2), upfirdn2d(x, f, padding=(2, 2, 2, 2)))
    assert torch.equal(upfirdn2d(x, f, padding=(2, 3)), upfirdn2d(x, f, padding=(2, 2, 3, 3)))
    assert torch.equal(upfirdn2d(x, None), x) and upfirdn2d(x, None, up=(3, 2)).shape == (1, 1, 12, 15)


def test_upfirdn2d_gradients_of_every_order():
    f = torch.tensor(FILTERS["4x2"], dtype=torch.float64)
    x = image(1, 2, 5, 4).requires_grad_()
    for options in (dict(up=2, padding=(2, 1)), dict(down=2, padding=1), dict(up=(3, 2), down=(2, 3), padding=(4, -1, 3, 1)),
                    dict(padding=(-1, 2, 2, 2), flip_filter=True, gain=2.5)):
        def run(x, options=options):
            return upfirdn2d(x, f, **options)
        assert gradcheck(run, x) and gradgradcheck(run, x)
    order = upfirdn2d(x, f, up=2, padding=2).pow(4).sum()
    for _ in range(3):
        order = torch.autograd.grad(order, x, create_graph=True)[0].sum()
    assert order.isfinite() and order != 0


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_types_layouts_and_strides(dtype, tolerance):
    f = setup_filter([1, 3, 3, 1])
    base = image(2, 20, 14, 6, dtype=dtype)
    for x in (base, base.permute(0, 2, 3, 1), base[:, ::2, 1:], base[:, :1].expand(-1, 9, -1, -1)):
        expected = definition(x, f, (2, 2), (1, 1), (2, 1, 2, 1), gain=4)
        got = upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
        b = image(x.shape[1], dtype=dtype)
        y = bias_act(x, b, act="lrelu", clamp=1)
        u = x.double() + b.double()[:, None, None]
        expected = (torch.where(u > 0, u, 0.2 * u) * 2**0.5).clamp(-1, 1)
        torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=2 * tolerance)
    wide = setup_filter(torch.ones(23), separable=False)  # oneDNN's 16-bit convolution never returns from this one
    assert upfirdn2d(base, wide, padding=11).dtype == dtype


def test_an_empty_batch_passes_through():
    x = torch.zeros(0, 3, 8, 8, requires_grad=True)
    y = bias_act(upfirdn2d(x, setup_filter([1, 3, 3, 1]), up=2, padding=(2, 1, 2, 1)), torch.zeros(3), act="swish")
    y.sum().backward()
    assert y.shape == (0, 3, 16, 16) and x.grad.shape == x.shape


def test_autocast_leaves_the_type_alone():
    x, b = image(1, 16, 8, 8, dtype=torch.float32), torch.zeros(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = bias_act(upfirdn2d(x, setup_filter([1, 3, 3, 1]), padding=2), b, act="softplus")
    expected = F.softplus(definition(x, setup_filter([1, 3, 3, 1]), padding=(2, 2, 2, 2)))
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6)


FORMULAS = {
    "linear": lambda u: u, "relu": lambda u: np.maximum(u, 0), "lrelu": lambda u: np.where(u > 0, u, 0.2 * u),
    "tanh": np.tanh, "sigmoid": lambda u: 1 / (1 + np.exp(-u)), "elu": lambda u: np.where(u > 0, u, np.exp(u) - 1),
    "selu": lambda u: 1.0507009873554805 * np.where(u > 0, u, 1.6732632423543772 * (np.exp(u) - 1)),
    "softplus": lambda u: np.log(1 + np.exp(u)), "swish": lambda u: u / (1 + np.exp(-u)),
}


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_is_its_formula(act):
    x, b = image(2, 3, 4, 5), image(4, seed=1)
    default = 2**0.5 if act in ("relu", "lrelu", "swish") else 1.0
    for gain, clamp in ((None, None), (0.6, None), (-1.5, 0.4)):
        expected = FORMULAS[act](x.numpy() + b.numpy()[:, None]) * (default if gain is None else gain)
        expected = expected if clamp is None else np.clip(expected, -clamp, clamp)
        got = bias_act(x, b, dim=2, act=act, gain=gain, clamp=clamp)
        torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(bias_act(x, b, dim=-2, act=act, gain=gain, clamp=clamp), got)
    torch.testing.assert_close(bias_act(x, act=act, gain=1), torch.from_numpy(FORMULAS[act](x.numpy())))


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("options", [{}, dict(clamp=0.7, gain=1.3), dict(gain=-0.5)])
def test_bias_act_gradients(act, options):
    x, b = image(2, 3, 3, 2, seed=3).requires_grad_(), image(3, seed=4).requires_grad_()

    def run(x, b):
        return bias_act(x, b, act=act, **options)
    assert gradcheck(run, (x, b)) and gradgradcheck(run, (x, b))
    assert gradcheck(lambda x: bias_act(x, act=act, **options), x)


def test_clamped_elements_get_no_gradient_in_any_type():
    for dtype, clamp in itertools.product((torch.float32, torch.float16, torch.bfloat16), (0.7, 0.3, 255.9)):
        x = torch.tensor([-1000.0, 0.1, 1000.0], dtype=dtype, requires_grad=True)
        bias_act(x, dim=0, clamp=clamp).sum().backward()
        assert x.grad.tolist() == [0, 1, 0]


F4, X = torch.ones(4), torch.zeros(1, 2, 8, 8)


@pytest.mark.parametrize("call,error,words", [
    (lambda: upfirdn2d(X[0], F4), ValueError, r"x: 4 dimensions .* got shape \(2, 8, 8\)"),
    (lambda: upfirdn2d(X.int(), F4), TypeError, "x: float32, .* got torch.int32"),
    (lambda: upfirdn2d(X, [1, 3, 3, 1]), TypeError, "f: a tensor expected, got list: make it with setup_filter"),
    (lambda: upfirdn2d(X, F4.reshape(1, 2, 2)), ValueError, r"f: \[taps\] or \[height, width\]"),
    (lambda: upfirdn2d(X, F4.clone().requires_grad_()), ValueError, "f: a constant expected"),
    (lambda: upfirdn2d(X, F4.to("meta")), ValueError, "f: expected on the device of x, cpu, got meta"),
    (lambda: upfirdn2d(X, F4, up=0), ValueError, "up: at least 1 expected, got 0"),
    (lambda: upfirdn2d(X, F4, down=1.5), TypeError, "down: an int or 2 ints expected, got 1.5"),
    (lambda: upfirdn2d(X, F4, padding=(1, 2, 3)), ValueError, "padding: an int or 2 or 4 ints expected, got 3"),
    (lambda: upfirdn2d(X, F4, padding=-3), ValueError, "f: a filter of 4×4 taps is larger than the padded image"),
    (lambda: bias_act(X, act="gelu"), ValueError, "act: one of linear, relu, .* got 'gelu'"),
    (lambda: bias_act(X, torch.zeros(3)), ValueError, r"b: shape \(2,\) expected, for dimension 1"),
    (lambda: bias_act(X, dim=4), ValueError, "dim: one of the 4 dimensions"),
    (lambda: bias_act(X, act="relu", alpha=0.1), ValueError, "alpha: only lrelu has a slope"),
    (lambda: bias_act(X, act="lrelu", alpha=-1), ValueError, "alpha: a slope >= 0"),
    (lambda: bias_act(X, gain=0), ValueError, "gain: a finite number other than 0"),
    (lambda: bias_act(X, clamp=-1), ValueError, "clamp: a limit >= 0, or None"),
    (lambda: setup_filter([[1, 2], [3, 4]], separable=True), ValueError, "separable=True needs 1-D taps"),
    (lambda: setup_filter([1, -1]), ValueError, "taps sum to zero"),
])
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_setup_filter():
    f = setup_filter([1, 3, 3, 2], gain=4)
    assert f.shape == (4,) and f.sum().item() == pytest.approx(2)  # applied twice: 4
    square = setup_filter([1, 3, 3, 2], separable=False, flip_filter=True, gain=4)
    torch.testing.assert_close(square, torch.outer(f, f).flip(0, 1))
    assert setup_filter([1, 3], normalize=False).tolist() == [1, 3]


def test_opcheck():
    f, x = setup_filter([1, 3, 3, 1]), image(2, 3, 6, 5, dtype=torch.float32).requires_grad_()
    torch.library.opcheck(torch.ops.probes.upfirdn2d, (x, f, [2, 1], [1, 3], [2, 1, -1, 4], False, 4.0))
    b, last = torch.zeros(3, requires_grad=True), x.detach().contiguous(memory_format=torch.channels_last)
    for act in ("lrelu", "swish", "tanh"):
        torch.library.opcheck(torch.ops.probes.bias_act, (last, b, 1, act, 0.2, 1.4, 0.5))
        extra = b if act == "swish" else None
        torch.library.opcheck(torch.ops.probes.bias_act_gradient, (x, last, extra, 1, act, 0.2, 1.4, 0.5))


def test_torch_compile_traces_both_in_one_graph():
    def layer(x, b):
        return bias_act(upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1)), b, act="lrelu", clamp=2).square().sum()
    f, b = setup_filter([1, 3, 3, 1]), torch.ones(3)
    x, y = (image(1, 3, 8, 8, dtype=torch.float32).requires_grad_() for _ in range(2))
    layer(x, b).backward()
    torch.compile(layer, fullgraph=True, backend="aot_eager")(y, b).backward()
    torch.testing.assert_close(y.grad, x.grad)


def test_importing_compiles_and_loads_nothing():
    code = ("import sys, torch, generators.ops as o; o.bias_act(torch.zeros(1, 1)); "
            "assert not torch.ops.loaded_libraries and 'torch.utils.cpp_extension' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_falling_back_is_said_once(monkeypatch, caplog):
    class Nowhere(Extension):
        def missing(self):
            return "no C++ compiler: c++ not found (set CXX)"
    monkeypatch.setitem(EXTENSIONS, "cpu", Nowhere("cpu", ("ops_cpu.cpp",)))
    monkeypatch.setattr(_dispatch, "_reported", set())
    monkeypatch.setenv("PROBES_OPS", "cpu")
    with caplog.at_level(logging.WARNING, logger="generators.ops"):
        x = image(1, 2, 6, 6)
        assert torch.equal(upfirdn2d(x, F4, padding=2), upfirdn2d(x, F4, padding=2))
        bias_act(x)
    assert [r.getMessage() for r in caplog.records] == [
        "upfirdn2d, bias_act and filtered_lrelu run in plain torch on cpu: no C++ compiler: c++ not found (set CXX)"]


def test_the_switch(monkeypatch):
    for value, cpu, cuda in (("auto", None, "cuda"), ("torch", None, None), ("cpu", "cpu", None), ("cuda", None, "cuda")):
        with switched(value):
            assert (_dispatch.wanted_extension("cpu"), _dispatch.wanted_extension("cuda")) == (cpu, cuda)
    monkeypatch.setenv("PROBES_OPS", "fast")
    with pytest.raises(ValueError, match="PROBES_OPS='fast': expected one of auto, torch, cpu, cuda"):
        bias_act(X)


def test_first_error_finds_the_line_that_matters():
    log = ("Error building extension 'x': [1/2] c++ -c a.cpp\nFAILED: a.o\n"
           " a.cpp:3:1: error: 'y' was not declared\nninja: build stopped")
    assert first_error(log) == "a.cpp:3:1: error: 'y' was not declared"


def test_command(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert command.main([]) == 0
    out = capsys.readouterr().out
    assert "All implementations agree." in out and "torch on cpu" in out and "not asked for" in out
    monkeypatch.setattr(command, "check", lambda *_: [Row("torch on cpu", "bias_act", torch.float32, 1, 0.0, 1.0, 0.0)])
    assert command.main([]) == 1 and "FAILED" in capsys.readouterr().out


@pytest.fixture(scope="session")
def cpp_op(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("extensions"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", place)
        if missing := EXTENSIONS["cpu"].missing():
            pytest.skip(missing)
        assert EXTENSIONS["cpu"].load() is not None, EXTENSIONS["cpu"].failure
    return place


@pytest.mark.slow
def test_cpp_op_agrees_with_torch(cpp_op, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", cpp_op)
    assert EXTENSIONS["cpu"].built() and command.main([]) == 0      # one that is built is checked without being asked for
    out = capsys.readouterr().out
    assert "C++ extension on cpu" in out and "not asked for" not in out and "All implementations agree." in out


@pytest.mark.slow
def test_cpp_op_is_its_definition(cpp_op, monkeypatch):
    monkeypatch.setenv("PROBES_OPS", "cpu")
    test_upfirdn2d_is_its_definition((3, 2), (2, 3), (-1, 3, 2, 2))
    test_upfirdn2d_is_its_definition((1, 1), (1, 1), (9, 9, 9, 9))
    test_types_layouts_and_strides(torch.bfloat16, 2e-2)
    test_an_empty_batch_passes_through()
    for act in ACTIVATIONS:
        test_bias_act_is_its_formula(act)


@pytest.mark.slow
def test_a_failing_build_falls_back(tmp_path, monkeypatch):
    broken = tmp_path / "broken.cpp"
    broken.write_text("int f() { return nonsense; }\n")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    extension = Extension("cpu", (str(broken),))
    assert extension.missing() or (extension.load() is None and "nonsense" in extension.failure)


# The CUDA kernels, without a GPU: their own source runs on CPU threads (csrc/emulate.h), and nvcc compiles it.

class Axis(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("size", "out", "up", "down", "pad", "taps")]


class Upfirdn2dParams(ctypes.Structure):
    _fields_ = [("x", Axis), ("y", Axis), ("batch", ctypes.c_int64), ("channels", ctypes.c_int64), ("last", ctypes.c_int)]


class BiasActParams(ctypes.Structure):
    _fields_ = [("size", ctypes.c_int64), ("bias_step", ctypes.c_int64), ("bias_size", ctypes.c_int64),
                ("act", ctypes.c_int), ("alpha", ctypes.c_double), ("gain", ctypes.c_double), ("clamp", ctypes.c_double)]


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("kernels") / "kernels.so", "upfirdn2d.cu", "bias_act.cu")


def pointer(x):
    return ctypes.c_void_p(x.data_ptr() if x is not None else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("taps,up,down,padding,size", [
    ((4, 4), 1, 1, (2, 1, 2, 1), (37, 40)), ((4, 4), 2, 1, (2, 1, 2, 1), (18, 20)), ((4, 4), 1, 2, (1, 1, 1, 1), (70, 66)),
    ((3, 5), 3, 2, (4, -2, -1, 3), (31, 25)), ((4, 4), 2, 2, (-3, 3, 1, 2), (35, 34)), ((4, 4), 1, 1, (2, 1, 2, 1), (5, 6)),
    ((40, 41), 1, 4, (30, 30, 20, 20), (90, 120)), ((1, 12), 2, 1, (6, 5, 0, 0), (20, 20)),
    ((1, 1), 3, 1, (0, 2, 0, 2), (12, 12)),
], ids=["4-tiled", "4-up-tiled", "4-down-tiled", "tiled", "4-tiled-general", "tiny", "huge", "row", "fewer-taps-than-up"])
def test_upfirdn2d_kernels_emulated(kernels, taps, up, down, padding, size, last, dtype):
    x, f = image(2, 3, *size, dtype=dtype), image(*taps, seed=1, dtype=dtype)
    expected = definition(x, f, (up, up), (down, down), padding, flip_filter=True)
    layout = torch.channels_last if last else torch.contiguous_format
    x, y = x.contiguous(memory_format=layout), torch.full_like(expected, float("nan"), dtype=dtype)
    y = y.contiguous(memory_format=layout)
    params = Upfirdn2dParams(Axis(size[1], y.shape[3], up, down, padding[0], taps[1]),
                             Axis(size[0], y.shape[2], up, down, padding[2], taps[0]), 2, 3, int(last))
    code = int(dtype == torch.float64)
    assert kernels.probes_upfirdn2d(code, pointer(x), pointer(f), pointer(y), ctypes.byref(params), None) == 0
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape,step,aligned", [
    ((3, 5, 8), 8, True), ((4, 7, 3), 3, True), ((5, 13), 1, True), ((5, 13), 1, False)])
def test_bias_act_kernels_emulated(kernels, shape, step, aligned, dtype):
    memory = image(3, 1000, dtype=dtype)
    start, size, code = 0 if aligned else 1, int(np.prod(shape)), int(dtype == torch.float64)
    x, dy, y = (m[start:start + size] for m in memory)
    b = image(shape[1], seed=5, dtype=dtype)
    for act in ACTIVATIONS:
        leaf, upstream = x.clone().view(shape).requires_grad_(), dy.clone().view(shape)
        expected = bias_act(leaf, b, dim=1, act=act, gain=-1.3, clamp=0.6)
        gradient, = torch.autograd.grad(expected, leaf, upstream)
        params = BiasActParams(size, step, len(b), ACTIVATIONS.index(act), 0.2, -1.3, torch.tensor(0.6, dtype=dtype).item())
        inputs = (pointer(None), pointer(x), pointer(b), pointer(y), ctypes.byref(params), None)
        assert kernels.probes_bias_act(code, 0, *inputs) == 0
        torch.testing.assert_close(y.view(shape), expected.detach(), rtol=1e-5, atol=1e-5)
        reference = x if act == "swish" else y.clone()
        bias = b if act == "swish" else None
        params.bias_size = len(b) if act == "swish" else 0
        inputs = (pointer(dy), pointer(reference), pointer(bias), pointer(y), ctypes.byref(params), None)
        assert kernels.probes_bias_act(code, 1, *inputs) == 0
        torch.testing.assert_close(y.view(shape), gradient, rtol=1e-5, atol=1e-5)


def nvcc(source, output, *flags):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc not found: the kernels were not compiled")
    done = subprocess.run(["nvcc", "-c", *flags, str(source), "-o", str(output)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr + done.stdout


@pytest.mark.parametrize("architectures", [(80,), pytest.param((75, 80, 86, 89, 90), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["upfirdn2d.cu", "bias_act.cu"])
def test_kernels_compile(name, architectures, tmp_path):
    targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in architectures]
    nvcc(CSRC / name, tmp_path / "kernel.o", "-std=c++17", "-O3" if len(targets) > 1 else "-O1", *targets)


@pytest.mark.slow
def test_cuda_binding_compiles_against_torch(tmp_path):
    from torch.utils.cpp_extension import include_paths
    stub = tmp_path / "c10" / "cuda" / "impl"  # CPU wheels carry c10's CUDA headers but for this generated one,
    stub.mkdir(parents=True)  # which is found first where it is there
    (stub / "cuda_cmake_macros.h").write_text("#define C10_CUDA_BUILD_SHARED_LIBS\n")
    flags = [f"-I{path}" for path in [*include_paths(), tmp_path]]
    nvcc(CSRC / "ops_cuda.cpp", tmp_path / "binding.o", "-std=c++20", "-O0", *flags)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the extension was neither built nor run")
@pytest.mark.parametrize("switch", ["torch", "cuda"])
def test_on_a_gpu(switch):
    if switch == "cuda":
        assert EXTENSIONS["cuda"].load() is not None, EXTENSIONS["cuda"].failure
    assert [row for row in check(switch, switch, "cuda") if not row.passed] == []
