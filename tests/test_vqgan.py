"""The VQGAN: parity with the reference on the golden data, sampling, sites, controls."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from make_taming import CONDITIONS, GPT, TINY

import adapters
from generators import checkpoints
from generators.vqgan import VQGAN, GPTConfig, VQGANConfig, VQGANNetwork, build
from generators.vqgan._format import expected_shapes, native, reference_shapes
from generators.vqgan._sampling import Decoder, coordinate_tokens, draw, filter_logits

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
from fill import fill  # noqa: E402

FACESHQ = dict(resolution=256, ch=128, ch_mult=[1, 1, 2, 2, 4], num_res_blocks=2, attn_resolutions=[16], z_channels=256,
               embed_dim=256, n_embed=1024, gpt=dict(vocab_size=1024, block_size=512, n_layer=24, n_head=16, n_embd=1024),
               conditioning="coordinate", coord_embed=1024, coord_factor=16)


def tiny(conditioning="none", sharp=True, **options):
    """A tiny generator; `sharp` logits, so that what a token sees decides what is drawn."""
    network = VQGANNetwork(VQGANConfig(**TINY, gpt=GPTConfig(**GPT), **CONDITIONS[conditioning]), seed=1)
    with torch.no_grad():
        network.codebook.copy_(torch.randn(network.codebook.shape, generator=torch.Generator().manual_seed(2)))
        if sharp:
            for value in network.transformer.parameters():
                if value.ndim == 2:
                    value.mul_(8)
            network.transformer.lm_head.weight.mul_(2)
    return VQGAN("tiny", network, world="scenes", **options)


def golden(name):
    spec = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as file:
        data = {key: torch.from_numpy(file[key]) for key in file.files}
    return spec, data, {key: torch.from_numpy(fill(key, shape)) for key, shape in spec["state"].items()}


def first_stage(name):
    spec, data, state = golden(name)
    dd = {k: v for k, v in spec["ddconfig"].items() if k not in ("double_z", "dropout", "out_ch")}
    config = dict(dd, out_channels=spec["ddconfig"]["out_ch"], n_embed=spec["n_embed"], embed_dim=spec["embed_dim"])
    config, state = native(config, {f"first_stage_model.{key}": value for key, value in state.items()})
    network = VQGANNetwork(VQGANConfig.from_dict(config))
    network.load_state_dict(state)
    return spec, data, network.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["vqgan-tiny", pytest.param("vqgan-faceshq", marks=pytest.mark.slow)])
def test_codes_image_and_gradient_are_the_references(name):
    spec, data, network = first_stage(name)
    indices = data["indices"].reshape(-1, network.config.side, network.config.side)
    codes = network.lookup(indices)
    assert torch.equal(codes[:, : data["quant"].shape[1]], data["quant"])
    codes.requires_grad_(True)
    image = network.decode(codes)
    expected = data["image"].float()
    # The full-size image is stored as float16, whose rounding is half a unit in its last place.
    rounding = 2**-11 * expected.abs() if data["image"].dtype == torch.float16 else 0
    assert ((image.detach() - expected).abs() - rounding).max() < 1e-4
    rng = np.random.RandomState(spec["seed"])
    assert np.array_equal(rng.randint(0, spec["n_embed"], data["indices"].shape), data["indices"].numpy())
    probe = torch.from_numpy(rng.standard_normal(tuple(image.shape)).astype(np.float32))
    (image * probe).mean().backward()
    expected = data["quant_grad"]
    assert (codes.grad[:, : expected.shape[1]] - expected).abs().max() < 1e-3 * expected.abs().max()


def test_encoding_finds_the_references_codes():
    _, data, network = first_stage("vqgan-tiny")
    indices = network.encode(data["x"])
    assert indices.shape == (2, 8, 8) and torch.equal(indices.flatten(1), data["encoded_indices"])
    assert (network.decode(network.lookup(indices)) - data["reconstruction"]).abs().max() < 1e-4
    with pytest.raises(ValueError, match=r"multiples of 4, got \[2, 3, 32, 30\]"):
        network.encode(data["x"][..., :30])
    with pytest.raises(ValueError, match="without transformer"):
        network.logits(indices.flatten(1))


def test_transformer_has_the_references_logits():
    spec, data, state = golden("vqgan-gpt-tiny")
    config = dict(TINY, resolution=8, attn_resolutions=[4], n_embed=64, gpt=spec["kwargs"])
    stage = {k: torch.zeros(v) for k, v in reference_shapes(VQGANConfig.from_dict(dict(config, gpt=None))).items()}
    config, state = native(config, {**stage, **{f"transformer.{key}": value for key, value in state.items()}})
    network = VQGANNetwork(VQGANConfig.from_dict(config)).eval()
    network.load_state_dict(state)
    with torch.no_grad():
        assert (network.logits(data["tokens"]) - data["logits"]).abs().max() < 1e-4
        steps = Decoder(network.transformer, len(data["tokens"]), data["tokens"].shape[1])
        logits = [steps(data["tokens"][:, :3])] + [steps(data["tokens"][:, i : i + 1]) for i in range(3, 17)]
        assert (torch.stack(logits, 1) - data["logits"][:, 2:]).abs().max() < 1e-4


@pytest.mark.parametrize("conditioning", CONDITIONS)
def test_a_seed_draws_the_same_codes_in_any_batch(conditioning, monkeypatch):
    generator = tiny(conditioning)
    together = generator.prepare(generator.sample(range(6), [2] if conditioning == "class" else None))
    assert together["codes"].shape == (6, 6, 8, 8)
    for seeds in ([4], [5, 0, 4]):
        some = generator.prepare(generator.sample(seeds, [2] if conditioning == "class" else None))
        assert torch.equal(some["codes"], together["codes"][seeds])
    monkeypatch.setattr("generators.vqgan._generator.CACHE_BYTES", 1)       # one sequence at a time
    again = generator.prepare(generator.sample(range(6), [2] if conditioning == "class" else None))
    assert torch.equal(again["codes"], together["codes"])
    assert len({tuple(row.tolist()) for row in generator.latent(together)}) == 6
    with torch.no_grad():
        assert generator.forward(together).shape == (6, 3, 16, 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_native_file_of_another_precision_computes_in_float32(dtype, tmp_path):
    network = tiny().network
    path = checkpoints.write_native(tmp_path / "other.safetensors", "vqgan", network.config.to_dict(),
                                    {name: value.to(dtype) for name, value in network.state_dict().items()})
    generator = build("other", checkpoints.read_native(path))
    assert {value.dtype for value in generator.network.parameters()} == {torch.float32}
    state = generator.prepare(generator.sample([0]))
    with torch.no_grad():
        assert state["codes"].dtype == generator.forward(state).dtype == torch.float32


@pytest.mark.parametrize("conditioning", CONDITIONS)
def test_sampling_follows_the_transformer_token_by_token(conditioning):
    """Draws by the definition: the whole sequence through GPT-2 for every token, one seed alone."""
    generator = tiny(conditioning, temperature=0.7, top_k=7, top_p=0.9)
    source = generator.sample([11])
    tokens, stream = generator.prefix(source), torch.Generator().manual_seed(11)
    start = tokens.shape[1]
    with torch.no_grad():
        for _ in range(64):
            p = (generator.network.logits(tokens)[0, -1, :20].double() / 0.7).softmax(-1)
            p[p < p.topk(7).values[-1]] = 0
            p /= p.sum()
            order = p.argsort(descending=True)
            keep = int((p[order].cumsum(0) < 0.9).sum()) + 1
            p[order[keep:]] = 0
            race = p / torch.empty(20, dtype=torch.float64).exponential_(generator=stream)
            tokens = torch.cat([tokens, race.argmax().view(1, 1)], 1)
    assert torch.equal(generator.indices(source).flatten(), tokens[0, start:])


def test_drawn_frequencies_are_the_distribution():
    generator = tiny(sharp=False, temperature=0.02)
    model, prefix = generator.network.transformer, torch.full((4000, 1), 3)
    drawn = draw(model, prefix, list(range(4000)), 1, 20, temperature=0.02)
    expected = filter_logits(generator.network.logits(prefix[:1])[:, 0, :20], 0.02)[0].exp()
    counted = torch.bincount(drawn.flatten(), minlength=20) / 4000
    assert expected.max() > 3 / 20 and (counted - expected).abs().max() < 4 * (0.25 / 4000) ** 0.5


def test_filters_keep_what_they_say():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()

    def kept(**options):
        return filter_logits(logits, **options)[0].exp().tolist()

    assert kept() == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert kept(top_k=2) == pytest.approx([4 / 7, 3 / 7, 0, 0])
    assert kept(top_p=0.6) == pytest.approx([4 / 7, 3 / 7, 0, 0])
    assert kept(top_p=0.01) == pytest.approx([1, 0, 0, 0]) and kept(top_p=1.0, top_k=9) == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert kept(temperature=0.5) == pytest.approx([16 / 30, 9 / 30, 4 / 30, 1 / 30])


def test_condition_decides_what_is_drawn():
    generator = tiny("class", sharp=True)
    drawn = [generator.indices(generator.sample([0], [c])) for c in range(5)]
    assert len({tuple(d.flatten().tolist()) for d in drawn}) > 1
    assert generator.sample([7, 8])["c"].tolist() == [2, 3]
    assert torch.equal(generator.indices(generator.sample([0, 0], [3, 1])), torch.cat([drawn[3], drawn[1]]))
    # Squares of 16 px of a 256 px image: 64 rows apart times 1024 / 65536 levels a pixel.
    tokens = coordinate_tokens(256, 16, 1024)
    assert tokens.shape == (256,) and tokens[:5].tolist() == [30, 30, 31, 31, 31] and tokens[16] == 94 and tokens[-1] == 994
    assert tiny("coordinate").prefix({"seed": torch.zeros(2)}).shape == (2, 64)


def test_faceshq_sites_are_131072_parameters_at_rank_8():
    from accelerate import init_empty_weights

    with init_empty_weights():
        network = VQGANNetwork(VQGANConfig.from_dict(FACESHQ))
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == expected_shapes(FACESHQ, "faceshq")
    generator = VQGAN("faceshq", network)
    sites = {name: network.get_submodule(name) for name in generator.sites("decoder-attention")}
    assert len(sites) == 16 and set(sites) <= set(generator.sites("decoder"))
    assert sum(8 * (m.in_features + m.out_features) for m in sites.values()) == 131_072
    convolutions = set(generator.sites("decoder")) - set(sites)
    assert len(convolutions) == 2 + 4 + 34 + 2, "ends, upsamplers, 17 residual blocks, 2 shortcuts"


def test_adapters_sit_on_the_sites_and_leave_the_picture_alone():
    generator = tiny()
    state = generator.prepare(generator.sample(range(2)))
    with torch.no_grad():
        before, fingerprint = generator.forward(state), generator.fingerprint
        for scope in generator.scopes:
            sites = generator.sites(scope)
            adapter = adapters.attach(generator, scope, scope=scope, rank=2)
            assert adapter.site_names == sites == generator.sites(scope)
            assert torch.equal(generator.forward(state), before)
            for parameter in adapter.parameters().values():
                parameter.add_(0.3)
            with adapter.active():
                assert (generator.forward(state) - before).abs().max() > 1e-2
            assert torch.equal(generator.forward(state), before)
    del generator._fingerprint
    assert generator.fingerprint == fingerprint
    with pytest.raises(ValueError, match="decoder-attention, decoder"):
        generator.sites("affine")


def test_controls():
    generator = tiny("class", top_k=5)
    source = generator.sample(range(3))
    codes = generator.prepare(source)
    fresh, again, crossed = generator.randomised(0), generator.randomised(0), generator.crossed(0)
    assert fresh.fingerprint == again.fingerprint != generator.fingerprint != crossed.fingerprint
    assert (fresh.weights, crossed.weights, crossed.options["top_k"]) == ("random:0", "crossed:0", 5)
    assert not torch.equal(fresh.prepare(source)["codes"], codes["codes"])
    assert torch.equal(crossed.prepare(source)["codes"], codes["codes"])
    with torch.no_grad():
        drawn, theirs = generator.forward(codes), crossed.forward(codes)
        random = fresh.forward(fresh.prepare(source))
    assert (drawn - theirs).abs().max() > 0.05
    # A random decoder must still draw different pictures for different codes, or it controls nothing.
    assert (random[0] - random[1]).abs().mean() > 0.1 * random.std()


def test_bf16_draws_nearly_the_same_picture():
    exact, fast = tiny(), tiny(precision="bf16")
    state = exact.prepare(exact.sample(range(2)))
    with torch.no_grad():
        difference = exact.forward(state) - fast.forward(state)
    assert fast.forward(state).dtype == torch.float32 and 0 < difference.abs().max() < 0.1
    assert exact.fingerprint != fast.fingerprint


@pytest.mark.parametrize("change", [dict(encoder=False), dict(quantizer="gumbel", embed_dim=8), dict(gpt=None), {},
                                    dict(attn_resolutions=[16, 8]), dict(attn_resolutions=[16]), dict(attn_resolutions=[])])
def test_native_files_hold_the_whole_network(change, tmp_path):
    config = VQGANConfig.from_dict({**TINY, "gpt": GPT, **change})
    assert VQGANConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    network = VQGANNetwork(config, seed=4)
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == expected_shapes(config.to_dict(), "x")
    path = checkpoints.write_native(tmp_path / "a.safetensors", "vqgan", config.to_dict(), network.state_dict())
    read = checkpoints.read_native(path)
    if config.gpt is None:
        with pytest.raises(checkpoints.CheckpointError, match="transformer half is missing.*transformer run"):
            build("a", read)
        return
    generator = build("a", read, top_k=4)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in generator.network.state_dict().items())
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if config.encoder:
        assert generator.network.encode(images).shape == (1, 8, 8)
    else:
        with pytest.raises(ValueError, match="without its encoder"):
            generator.network.encode(images)


@pytest.mark.parametrize("change, message", [
    (dict(ch=24), "24 channels; the normalisation has 32 groups"),
    (dict(resolution=17), "resolution=17"),
    (dict(gpt=dict(GPT, block_size=63)), "block_size=63.*at least 64"),
    (dict(gpt=dict(GPT, vocab_size=19)), "vocab_size=19.*n_embed=20"),
    (dict(gpt=dict(GPT, n_head=3)), "multiple of n_head=3"),
    (dict(gpt=GPT, conditioning="class"), "num_classes=0"),
    (dict(gpt=GPT, conditioning="coordinate", coord_factor=2, coord_embed=26), "coord_embed=26"),
    (dict(gpt=GPT, conditioning="coordinate", coord_factor=3, coord_embed=20), "coord_factor=3"),
    (dict(gpt=GPT, sos_token=24), "sos_token=24"),
    (dict(n_embed="20"), "n_embed='20'"),
    (dict(quantizer="ema"), "quantizer='ema'.*'gumbel'"),
    (dict(depth=3), "unknown VQGAN option 'depth'"),
])  # fmt: skip
def test_configurations_that_no_vqgan_has_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        VQGANConfig.from_dict({**TINY, **change})
    with pytest.raises(checkpoints.CheckpointError, match=f"a.ckpt: .*{message}"):
        expected_shapes({**TINY, **change}, "a.ckpt")


@pytest.mark.parametrize("options, message", [
    (dict(temperature=0), "temperature"), (dict(temperature="hot"), "temperature"),
    (dict(top_k=0), "top_k"), (dict(top_k=2.5), "top_k"), (dict(top_p=1.5), "top_p"),
    (dict(precision="fp16"), "precision.*bf16"),
])  # fmt: skip
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)
    with pytest.raises(ValueError, match="classes.*unconditional"):
        tiny().sample([0], [1])
    with pytest.raises(ValueError, match="classes.*0 … 4"):
        tiny("class").sample([0], [5])


def test_public_table_is_complete_and_spells_the_known_addresses():
    from generators.vqgan._public import PUBLIC

    assert {"vqgan-ffhq", "vqgan-celebahq", "vqgan-faceshq", "vqgan-imagenet", "vqgan-gumbel-f8"} <= set(PUBLIC)
    for name, entry in PUBLIC.items():
        assert entry.name == name and entry.family == "vqgan" and entry.url.startswith("https://") and entry.license
        assert (entry.config_url is None) == (name == "vqgan-imagenet")
    ffhq = PUBLIC["vqgan-ffhq"]
    run = "2021-04-23T18-19-01_ffhq_transformer"
    base = "https://app.koofr.net/content/links/0fc005bf-3dca-4079-9d40-cdf38d42cd7a/files/get/"
    assert ffhq.url == f"{base}last.ckpt?path=%2F{run}%2Fcheckpoints%2Flast.ckpt" and ffhq.fid == 9.6
    assert ffhq.config_url == (f"{base}2021-04-23T18-19-01-project.yaml?path=%2F{run}%2Fconfigs%2F"
                               "2021-04-23T18-19-01-project.yaml&force")


def test_normalisation_in_bfloat16_has_the_gradient_of_torchs_own():
    from generators._group_norm import GroupNorm, adopt

    rng = torch.Generator().manual_seed(0)
    x = (2 * torch.randn(3, 32, 6, 5, generator=rng) + 0.5).bfloat16().contiguous(memory_format=torch.channels_last)
    own, reference = adopt(torch.nn.Sequential(torch.nn.GroupNorm(8, 32)))[0], torch.nn.GroupNorm(8, 32)
    assert type(own) is GroupNorm and list(own.state_dict()) == list(reference.state_dict())
    with torch.no_grad():
        for a, b in zip(own.parameters(), reference.parameters(), strict=True):
            a.copy_(torch.randn(32, generator=rng))
            b.copy_(a)
    upstream = torch.randn(3, 32, 6, 5, generator=rng)
    results = []
    for module, value in ((own, x), (reference, x.float())):
        leaf = value.clone().requires_grad_()
        y = module(leaf)
        y.backward(upstream.to(y.dtype))
        results.append([t.float() for t in (y, leaf.grad, module.weight.grad, module.bias.grad)])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()
