"""LoRA on transposed convolutions: what PEFT promises of its layers, on ours; and sites of several kinds on one generator."""
import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from tiny import SMALL
from torch import nn

import adapters
import probes
from generators import Generator

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`", "ignore:LoRA adapter added to ConvNd")
GEOMETRIES = {
    "plain": dict(kernel_size=3),
    "dcgan": dict(kernel_size=4, stride=2, padding=1),
    "odd-output": dict(kernel_size=3, stride=2, padding=1, output_padding=1),
    "dilated": dict(kernel_size=3, stride=2, padding=2, dilation=2),
    "uneven": dict(kernel_size=(2, 5), stride=(3, 1), padding=(0, 2), output_padding=(1, 0), bias=False),
    "pointwise": dict(kernel_size=1),
}


def lora(base: nn.Module, name: str = "a", rank: int = 3, scale: float = 0.5, **options) -> nn.Sequential:
    """The layer in a network, with an adapter whose weights are far from zero."""
    network = base if isinstance(base, nn.Sequential) else nn.Sequential(base).requires_grad_(False)
    config = adapters.register_conv_transpose(LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=["0"], **options))
    inject_adapter_in_model(config, network, adapter_name=name)
    nn.init.normal_(network[0].lora_B[name].weight)
    return network


@pytest.fixture(params=GEOMETRIES)
def base(request):
    torch.manual_seed(0)
    return nn.ConvTranspose2d(6, 5, **GEOMETRIES[request.param])


@pytest.fixture
def x():
    return torch.randn(2, 6, 4, 7, generator=torch.Generator().manual_seed(1))


def test_a_fresh_adapter_changes_nothing_and_is_named_as_pefts(base, x):
    before = base(x)
    network = nn.Sequential(base)
    inject_adapter_in_model(adapters.register_conv_transpose(LoraConfig(r=3, target_modules=["0"])), network, adapter_name="a")
    assert isinstance(network[0], adapters.ConvTranspose2d)
    assert torch.equal(network(x), before)
    assert network[0].lora_A["a"].weight.abs().max() > 0 == network[0].lora_B["a"].weight.abs().max()
    names = {n for n, p in network.named_parameters() if p.requires_grad}
    assert names == {"0.lora_A.a.weight", "0.lora_B.a.weight"}


def test_merging_draws_what_the_adapter_drew(base, x):
    before, weight = base(x), base.weight.detach().clone()
    network = lora(base)
    drawn = network(x)
    assert (drawn - before).abs().max() > 0.1
    for safe in (False, True):
        network[0].merge(safe_merge=safe)
        assert network[0].merged_adapters == ["a"]
        torch.testing.assert_close(network(x), drawn, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(base(x), drawn, atol=1e-5, rtol=1e-5)
        network[0].unmerge()
        torch.testing.assert_close(base.weight, weight, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(network(x), drawn, atol=1e-5, rtol=1e-5)
    network[0].enable_adapters(False)
    torch.testing.assert_close(network(x), before, atol=1e-5, rtol=1e-5)


def test_the_kernel_changes_by_a_matrix_of_that_rank(base):
    layer = lora(base, rank=2)[0]
    delta = layer.get_delta_weight("a")
    assert delta.shape == base.weight.shape
    values = torch.linalg.svdvals(delta.flatten(1))
    assert values[1] > 1e-2 and values[2:].max() < 1e-5 * values[0]
    lower, upper = layer.lora_A["a"].weight, layer.lora_B["a"].weight
    torch.testing.assert_close(delta, 0.5 * torch.einsum("ri,rohw->iohw", lower[..., 0, 0], upper))


def test_disabled_is_bit_identical_even_after_a_merge(base, x):
    before = base(x)
    network = lora(base)
    network[0].enable_adapters(False)
    assert torch.equal(network(x), before)
    network[0].enable_adapters(True)
    network[0].merge()
    network[0].enable_adapters(False)
    torch.testing.assert_close(network(x), before, atol=1e-5, rtol=1e-5)      # PEFT unmerges
    assert not network[0].merged


def test_several_adapters_add_up_and_merge(base, x):
    before = base(x)
    network = lora(lora(base), "b", rank=2, scale=1.0)
    drawn = {}
    for active in (["a"], ["b"], ["a", "b"]):
        network[0].set_adapter(active)
        drawn["".join(active)] = network(x) - before
    torch.testing.assert_close(drawn["ab"], drawn["a"] + drawn["b"], atol=1e-5, rtol=1e-5)
    network[0].merge(adapter_names=["a", "b"])
    torch.testing.assert_close(base(x) - before, drawn["ab"], atol=1e-5, rtol=1e-5)
    network[0].unmerge()
    network[0].delete_adapter("a")
    network[0].set_adapter(["b"])
    torch.testing.assert_close(network(x) - before, drawn["b"], atol=1e-5, rtol=1e-5)


def test_rows_of_a_batch_may_have_an_adapter_each(base, x):
    before = base(x)
    layer = lora(lora(base), "b")[0]
    mixed = layer(x, adapter_names=["b", "__base__"])
    layer.set_adapter(["b"])
    torch.testing.assert_close(mixed, torch.cat([layer(x)[:1], before[1:]]), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_merged_kernel(base, x):
    network = lora(base)
    lower, upper = (network[0].lora_A["a"].weight, network[0].lora_B["a"].weight)
    kernel = base.weight + 0.5 * torch.einsum("ri,rohw->iohw", lower[..., 0, 0], upper)
    plain = torch.func.functional_call(base, {"weight": kernel}, (x,))
    ours = torch.autograd.grad(network(x).square().mean(), (lower, upper))
    for got, expected in zip(ours, torch.autograd.grad(plain.square().mean(), (lower, upper)), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_output_size_reaches_the_adapter(x):
    base = nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1)
    layer = lora(base)[0]
    drawn = layer(x, output_size=[8, 14])
    assert drawn.shape == (2, 5, 8, 14) != layer(x).shape
    layer.merge()
    torch.testing.assert_close(layer(x, output_size=[8, 14]), drawn, atol=1e-5, rtol=1e-5)
    layer.enable_adapters(False)
    before = base(x, [8, 14])
    assert not torch.allclose(layer(x, output_size=[8, 14]), before, atol=0.1) and not layer.merged
    assert torch.equal(layer(x, output_size=[8, 14]), base(x, [8, 14]))
    with pytest.raises(ValueError, match="output_size"):
        lora(nn.ConvTranspose2d(6, 5, 3))[0](x, output_size=[6, 9], adapter_names=["a", "a"])


def test_a_bias_of_the_adapter_is_merged_too(x):
    base = nn.ConvTranspose2d(6, 5, 4, 2, 1)
    network = lora(base, lora_bias=True)
    nn.init.ones_(network[0].lora_B["a"].bias)
    drawn = network(x)
    network[0].merge()
    torch.testing.assert_close(base(x), drawn, atol=1e-5, rtol=1e-5)


def test_half_precision_keeps_its_type_and_merges(x):
    base = nn.ConvTranspose2d(6, 5, 4, 2, 1).bfloat16()
    network = lora(base)
    drawn = network(x.bfloat16())
    assert drawn.dtype == torch.bfloat16 == network[0].get_delta_weight("a").dtype
    network[0].merge(safe_merge=True)
    torch.testing.assert_close(base(x.bfloat16()).float(), drawn.float(), atol=0.1, rtol=0.05)


def test_safe_merge_refuses_broken_weights():
    layer = lora(nn.ConvTranspose2d(6, 5, 3))[0]
    weight = layer.weight.detach().clone()
    nn.init.constant_(layer.lora_B["a"].weight, float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.weight, weight)


def test_a_whole_peft_model_merges_and_unloads(x):
    torch.manual_seed(0)
    network = nn.Sequential(nn.ConvTranspose2d(6, 5, 4, 2, 1), nn.ReLU(), nn.Conv2d(5, 3, 3, padding=1))
    config = adapters.register_conv_transpose(LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights="gaussian",
                                                         use_rslora=True))
    model = get_peft_model(network, config)
    assert model.get_nb_trainable_parameters()[0] == 2 * (6 + 5 * 16) + 2 * (5 * 9 + 3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    drawn = model(x)
    plain = model.merge_and_unload()
    assert type(plain[0]) is nn.ConvTranspose2d
    torch.testing.assert_close(plain(x), drawn, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("change", "message"), [
    (dict(use_dora=True), "use_dora"),
    (dict(init_lora_weights="pissa"), "init_lora_weights.*pissa"),
    (dict(r=0), "rank"),
])
def test_what_it_cannot_do_is_said(change, message):
    with pytest.raises(ValueError, match=message):
        inject_adapter_in_model(adapters.register_conv_transpose(LoraConfig(**{"r": 2, "target_modules": ["0"], **change})),
                                nn.Sequential(nn.ConvTranspose2d(4, 4, 3)), adapter_name="a")
    with pytest.raises(ValueError, match="0 is a transposed convolution with groups=2"):
        lora(nn.ConvTranspose2d(4, 4, 3, groups=2))


class Mixture(Generator):
    """z -> Linear -> 4×4 -> two transposed convolutions -> convolution -> 16 px; every kind of site."""

    family = "mixture"
    SITES = {"linear": ["first"], "transposed": ["up1", "up2"], "convolution": ["rgb"],
             "all": ["first", "up1", "up2", "rgb"]}

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.up1 = nn.Linear(8, 64), nn.ConvTranspose2d(4, 6, 4, 2, 1, bias=False)
            self.up2, self.rgb = nn.ConvTranspose2d(6, 5, 3, 2, 1, 1), nn.Conv2d(5, 3, 3, padding=1)
            self.grouped = nn.ConvTranspose2d(4, 4, 3, groups=2)
            self.dilated, self.norm = nn.Conv2d(4, 4, 3, dilation=2), nn.BatchNorm2d(4)
            self.reflected, self.pairs = nn.Conv2d(4, 4, 3, padding_mode="reflect"), nn.Conv2d(4, 4, 1, groups=2)

        def forward(self, z):
            x = self.up1(torch.relu(self.first(z)).view(-1, 4, 4, 4))
            return torch.tanh(3 * self.rgb(torch.relu(self.up2(torch.relu(x)))))

    def __init__(self, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__("mixture", self.Network(), 16, world="scenes")

    def sample(self, seeds, classes=None):
        return {"z": torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(int(s))) for s in seeds])}

    def prepare(self, source):
        return source

    def forward(self, state):
        return self.network(state["z"])

    def latent(self, state):
        return state["z"]

    @property
    def scopes(self):
        return ("all", *self.SITES)

    def sites(self, scope="all"):
        return self.SITES[scope]

    def randomised(self, seed):
        return type(self)(seed + 1)

    crossed = randomised


@pytest.mark.parametrize("scope", Mixture.SITES)
def test_sites_of_every_kind_are_adapted_saved_and_loaded(scope, tmp_path):
    generator = Mixture()
    state = generator.prepare(generator.sample(range(3)))
    before = generator.forward(state)
    probe = probes.fit(generator, out=str(tmp_path), scope=scope, **{**SMALL, "steps": 30, "evaluate": 0})
    assert torch.equal(generator.forward(state), before)
    assert probe.adapter.site_names == Mixture.SITES[scope]
    assert set(probe.adapter.parameters()) == {f"{s}.lora_{x}.weight" for s in Mixture.SITES[scope] for x in "AB"}
    assert all(p.abs().max() > 0 for p in probe.adapter.parameters().values())        # every site was trained
    assert probe.curve[-1][1] < probe.curve[0][1]
    again = probes.load(tmp_path, generator=Mixture())
    assert torch.equal(again.predict(range(3)).map, probe.predict(range(3)).map)
    assert torch.equal(again.generator.forward(state), before)
    assert not torch.allclose(again.emit(state), before, atol=1e-3)
    adapters.detach(again.adapter)
    assert torch.equal(again.generator.forward(state), before)
    assert not any("lora" in name for name, _ in again.generator.network.named_modules())


@pytest.mark.parametrize(("site", "message"), [
    ("grouped", "grouped of mixture is a transposed convolution with groups=2, expected groups=1"),
    ("dilated", "dilated of mixture is a convolution with dilation"),
    ("reflected", "padding_mode='reflect'"),
    ("norm", "norm of mixture is BatchNorm2d; expected Linear"),
    ("pairs", "groups=2 and rank 3"),
])
def test_a_site_that_cannot_be_adapted_is_named_and_nothing_is_left_behind(site, message):
    generator = Mixture()
    names, fingerprint = [n for n, _ in generator.network.named_modules()], generator.fingerprint
    with pytest.raises(ValueError, match=message):
        adapters.attach(generator, "a", sites=["first", "up1", site], rank=3)
    assert [n for n, _ in generator.network.named_modules()] == names
    del generator._fingerprint
    assert generator.fingerprint == fingerprint
    assert adapters.attach(generator, "a", scope="all", rank=3).site_names == Mixture.SITES["all"]
