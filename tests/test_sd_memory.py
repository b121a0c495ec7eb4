"""What a step of Stable Diffusion keeps: frozen blocks recompute what is cheap, and parts that it has no use for wait aside."""
import copy
import tempfile
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import make_sd
import pytest
import torch
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from families import FAMILIES, _stable_diffusion, states

import adapters
import probes
from generators._aside import _regions, aside
from generators._group_norm import adopt
from generators.stable_diffusion._frugal import Gated, Resnet, frugal
from generators.stable_diffusion._read import read_folder
from probes._processes import ALONE
from probes._train import _learn


@pytest.fixture
def generator():
    return FAMILIES["stable-diffusion"][0]()


def blocks(**about):
    """(as diffusers has it, ours), equal weights that are not the first ones."""
    torch.manual_seed(0)
    theirs = ResnetBlock2D(in_channels=8, temb_channels=5, groups=4, eps=1e-5, **about).requires_grad_(False)
    for value in theirs.parameters():
        value.normal_()
    return theirs, frugal(adopt(copy.deepcopy(theirs)))


def kept(run):
    """(result, bytes that its graph keeps beside parameters)."""
    sizes, held = {}, []

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            held.append(tensor)             # or its address is given to the next
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    return result, sum(sizes.values())


@pytest.mark.parametrize("about", [dict(out_channels=8), dict(out_channels=12), dict(out_channels=8, output_scale_factor=1.5),
                                   dict(out_channels=8, skip_time_act=True)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_frozen_block_has_the_same_gradient_and_keeps_half(about, dtype):
    theirs, ours = (block.to(dtype) for block in blocks(**about))
    assert type(ours) is Resnet and list(ours.state_dict()) == list(theirs.state_dict())
    x, temb = torch.randn(2, 8, 16, 16).to(dtype), torch.randn(2, 5).to(dtype)
    found = []
    for block in (theirs, ours):
        leaf, time = x.clone().requires_grad_(), temb.clone().requires_grad_()
        y, size = kept(partial(block, leaf, time))
        y.backward(torch.ones_like(y) + x.mean())
        found.append((y, leaf.grad, time.grad, size))
    for mine, other in zip(found[1][:3], found[0][:3], strict=True):
        assert mine.dtype is dtype and (mine - other).norm() < (1e-5 if dtype is torch.float32 else 0.03) * other.norm()
    assert found[1][3] < 0.55 * found[0][3]


@pytest.mark.parametrize("weights", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("format", ["plain", "channels last", "turned"])
def test_memory_formats(weights, format):
    theirs, ours = (block.to(memory_format=weights) for block in blocks(out_channels=12))
    x = torch.randn(2, 8, 6, 10)
    x = {"channels last": x.contiguous(memory_format=torch.channels_last), "turned": x.transpose(2, 3)}.get(format, x)
    found = []
    for block in (theirs, ours):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = block(leaf, torch.zeros(2, 5))
        y.square().sum().backward()
        found.append((y, leaf.grad))
    for mine, other in zip(found[1], found[0], strict=True):
        assert (mine - other).norm() < 1e-5 * other.norm()


def test_groups_far_from_zero_lose_no_digits():
    """In bfloat16 an activation that is computed again from scale and shift cancels where the mean is large."""
    theirs, ours = (block.bfloat16() for block in blocks(out_channels=8))
    x = (torch.randn(2, 8, 16, 16) + 50).bfloat16()
    precise, errors = theirs.float(), []
    reference = x.float().requires_grad_()
    (precise(reference, torch.zeros(2, 5)) - reference).sum().backward()
    for block in (adopt(copy.deepcopy(theirs)).bfloat16(), ours):
        leaf = x.clone().requires_grad_()
        (block(leaf, torch.zeros(2, 5).bfloat16()) - leaf).sum().backward()
        errors.append((leaf.grad.float() - reference.grad).norm())
    assert errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize("change", ["learning", "hooked", "convolution with an adapter", "upsampling", "no gradient",
                                    "autocast", "another forward", "dilated"])
def test_whatever_else_happens_in_a_block_takes_the_common_road(change, monkeypatch):
    theirs, ours = blocks(out_channels=8, **(dict(up=True) if change == "upsampling" else {}))
    seen = []
    monkeypatch.setattr("generators.stable_diffusion._frugal.norm_silu_conv", lambda *a: seen.append(a))
    for block in (theirs, ours):
        if change == "learning":
            block.conv2.weight.requires_grad_()
        if change == "hooked":
            block.norm2.register_forward_hook(lambda module, arguments, output: 2 * output)
        if change == "another forward":             # as accelerate's hooks
            block.conv1.forward = lambda x, own=block.conv1: 2 * torch.nn.functional.conv2d(x, own.weight, own.bias, padding=1)
        if change == "dilated":
            block.conv2.dilation, block.conv2.padding = (2, 2), (2, 2)
        if change == "convolution with an adapter":
            block.conv1 = torch.nn.Sequential(block.conv1, torch.nn.Tanh())
    x = torch.randn(2, 8, 6, 6, requires_grad=change != "no gradient")
    with torch.autocast("cpu", torch.bfloat16) if change == "autocast" else nullcontext():
        torch.testing.assert_close(ours(x, torch.zeros(2, 5)), adopt(theirs)(x, torch.zeros(2, 5)))
    assert not seen
    if change == "learning":
        ours(x, torch.zeros(2, 5)).sum().backward()
        assert ours.conv2.weight.grad.abs().sum() > 0


def test_a_gate_is_computed_again():
    torch.manual_seed(0)
    theirs = GEGLU(6, 32)
    ours = frugal(copy.deepcopy(theirs))
    assert type(ours) is Gated
    x, found = torch.randn(2, 50, 6), []
    for module in (theirs, ours):
        leaf = x.clone().requires_grad_()
        y, size = kept(partial(module, leaf))
        y.square().sum().backward()
        found.append((y, leaf.grad, module.proj.weight.grad, module.proj.bias.grad, size))
    for mine, other in zip(found[1][:4], found[0][:4], strict=True):
        torch.testing.assert_close(mine, other)
    assert found[1][4] < 0.75 * found[0][4]


def test_the_adapters_gradient_is_the_same(generator):
    own, state = generator.network.unet, states(generator, range(2))
    adapter = adapters.attach(generator, "n", rank=2, prompt="surface normal")
    gradients, sizes = [], []
    for frugally in (True, False):
        if not frugally:
            for module in own.modules():
                module.__class__ = {Resnet: ResnetBlock2D, Gated: GEGLU}.get(type(module), type(module))
        with adapter.active(train=True):
            out, size = kept(lambda: generator.forward(state))
            out.square().mean().backward()
        gradients.append([p.grad.clone() for p in adapter.parameters().values()])
        sizes.append(size)
        for p in adapter.parameters().values():
            p.grad = None
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-4)
    assert any(g.abs().sum() > 0 for g in gradients[0]) and sizes[0] < 0.85 * sizes[1]


def mapped(part):
    """Whether all of its weights lie in memory that a file is mapped for."""
    regions = _regions()
    return all(any(start <= v.data_ptr() < stop for start, stop in regions) for v in part.state_dict().values())


@pytest.mark.skipif(not _regions(), reason="this system does not say what files are mapped for")
def test_what_is_laid_aside_is_in_a_file_and_as_it_was(monkeypatch):
    part = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.BatchNorm1d(300)).bfloat16().requires_grad_(False)
    places, before = [id(p) for p in part.parameters()], {k: v.clone() for k, v in part.state_dict().items()}
    x = torch.randn(4, 300).bfloat16()
    part.eval()
    expected = part(x)
    assert not mapped(part)
    with aside([part, part], least=0):
        assert mapped(part)
        torch.testing.assert_close(part(x), expected)
    assert [id(p) for p in part.parameters()] == places
    assert {k: v.dtype for k, v in part.state_dict().items()} == {k: v.dtype for k, v in before.items()}
    assert all(torch.equal(v, before[k]) for k, v in part.state_dict().items())
    part[0].weight.zero_()                      # they can be written still
    assert not part[0].weight.any()
    moved = part[0].weight.data_ptr()
    for regions in (_regions, list):            # there already, and known where the system does not say it
        monkeypatch.setattr("generators._aside._regions", regions)
        with aside([part], least=0):
            assert part[0].weight.data_ptr() == moved


def test_what_is_small_or_has_no_room_stays(monkeypatch):
    part = torch.nn.Linear(50, 50)
    where = part.weight.data_ptr()
    with aside([part]):
        assert part.weight.data_ptr() == where

    def full(*a, **b):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with aside([part], least=0):
        assert part.weight.data_ptr() == where and part.weight.abs().sum() > 0


def test_parts_on_an_accelerator_wait_in_main_memory_and_come_back(monkeypatch):
    parts = [torch.nn.Linear(5, 5, device="meta") for _ in range(2)]        # another device than the CPU, and one that is here
    moved = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: moved.append((self, str(device))))
    with pytest.raises(KeyError), aside(parts, least=0):
        assert moved == [(part, "cpu") for part in parts]
        raise KeyError
    assert moved[2:] == [(part, "meta") for part in parts]

    def interrupted(self, device):
        moved.append((self, str(device)))
        if self is parts[1] and device == "cpu":
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.nn.Module, "to", interrupted)
    with pytest.raises(KeyboardInterrupt), aside(parts, least=0):
        pass
    assert moved[-2:] == [(part, "meta") for part in parts]


def test_training_lays_aside_what_steps_do_not_need(generator, monkeypatch, tmp_path):
    seen = {}

    def watched(parts, least=0):
        seen["parts"] = list(parts)
        return aside(parts, 0)

    monkeypatch.setattr("generators.stable_diffusion._generator.aside", watched)
    network = generator.network
    fits = dict(generator=generator, data="scenes", teacher="exact", intrinsic="normal", samples=10, steps=2, batch=2,
                evaluate=2, controls=[], quiet=True)

    def learn(**more):
        probes.fit(**fits, **more, out=str(tmp_path / f"run{len(list(tmp_path.iterdir()))}"))

    learn(prompt="surface normal")
    assert seen["parts"] == [network.vae, network.text_encoder]
    learn(method="token", prompt="surface normal")
    assert seen.pop("parts") == [network.vae]   # the text encoder reads the words that are learnt
    learn(method="pixels")
    assert not seen                             # which decodes a picture in every step
    learn(method="linear", prompt="surface normal")
    assert seen["parts"] == [network.vae, network.text_encoder] and "surface normal" in generator._embeddings


@pytest.mark.parametrize("options", [dict(checkpointing=True), dict(precision="bf16"), dict(precision="fp16"),
                                     dict(mode="multi", conv_in="doubled", checkpointing=True)], ids=str)
def test_a_fit_that_saves_memory_is_the_fit(options, tmp_path):
    """Recomputed activations change nothing, half precision a little; the adapter itself stays in float32."""
    plain, states = {k: v for k, v in options.items() if k in ("mode", "conv_in")}, []
    for name, given in (("plain", plain), ("spare", options)):
        probe = probes.fit(_stable_diffusion(**given)(), data="scenes", teacher="exact", intrinsic="normal", samples=10,
                           steps=6, batch=2, evaluate=2, controls=[], quiet=True, out=str(tmp_path / name))
        states.append(probe.adapter.state())
    assert {v.dtype for v in states[1].values()} == {torch.float32}
    change = sum((states[1][k] - v).square().sum() for k, v in states[0].items()).sqrt()
    size = sum(v.square().sum() for v in states[0].values()).sqrt()
    assert change < (0.05 if "precision" in options else 1e-5) * size


def test_small_gradients_survive_half_precision():
    """Of an error of a thousandth the gradient of the mean is below what float16 can say."""
    found = []
    for precision in ("fp32", "fp16"):
        generator = _stable_diffusion(precision=precision)()
        adapter, state = adapters.attach(generator, "normal", rank=2, prompt="surface normal"), states(generator, range(2))
        with torch.no_grad(), adapter.active():
            target = adapter.forward(state)
        target += 1e-3 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
        bank, values = SimpleNamespace(lesson=lambda rows, pair=(state, target): pair), list(adapter.parameters().values())
        with adapter.active(train=True):
            _learn(adapter, bank, None, [([0, 1], [0, 0])], ALONE, values)
        found.append(torch.cat([value.grad.flatten() for value in values]))
    assert (found[1] - found[0]).norm() < 0.02 * found[0].norm()


def test_a_mapped_checkpoint_is_not_copied(tmp_path):
    make_sd.write_folder(tmp_path / "sd")
    vae = make_sd.load(read_folder(tmp_path / "sd")).vae
    places = [p.data_ptr() for p in vae.parameters()]
    with aside([vae], least=0):
        assert [p.data_ptr() for p in vae.parameters()] == places
