"""LoRA files of the Stable Diffusion world: what is read and written draws what diffusers, or the formula, draws."""
import copy
import errno
import os

import make_sd_lora as forge
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from full_size import on_meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

import adapters
from adapters.sd_files import fits, read_lora, write_lora
from adapters.sd_files._names import decode, to_kohya
from generators import Generator
from generators._files import OutputError

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`", "ignore:LoRA adapter added to ConvNd")


class UNet(Generator):
    """A U-Net alone, as a generator."""

    family, scopes = "unet", ("attention",)

    def __init__(self, unet: nn.Module):
        super().__init__("tiny", nn.ModuleDict({"unet": unet}), resolution=8)

    def sample(self, seeds, classes=None):
        rng = torch.Generator().manual_seed(seeds[0])
        return {"x": torch.randn(2, 4, 8, 8, generator=rng), "text": torch.randn(2, 5, 12, generator=rng)}

    def forward(self, state):
        return run(self.network["unet"], state)

    def sites(self, scope):
        return [f"unet.{site}" for site in forge.attention_sites(self.network["unet"])]

    def randomised(self, seed):
        raise NotImplementedError


@torch.no_grad()
def run(unet, state):
    return unet(state["x"], 999, encoder_hidden_states=state["text"]).sample


@pytest.fixture(scope="module")
def base():
    return forge.unet()


@pytest.fixture
def generator(base):
    return UNet(copy.deepcopy(base))


@pytest.fixture(scope="module")
def state(base):
    return UNet(base).sample([5])


def by_formula(base, pairs, scale, state):
    """o = W a + scale · B A a at every site, spelt out."""
    unet = copy.deepcopy(base)
    for site, (a, b) in pairs.items():
        factor = scale if isinstance(scale, float) else scale[site]
        module = unet.get_submodule(site)

        def update(module, inputs, output, a=a, b=b, factor=factor):
            if isinstance(module, nn.Linear):
                return output + factor * inputs[0] @ a.T @ b.T
            hidden = nn.functional.conv2d(inputs[0], a, None, module.stride, module.padding)
            return output + factor * nn.functional.conv2d(hidden, b)

        module.register_forward_hook(update)
    return run(unet, state)


def by_diffusers(base, path, state, **options):
    pipe = pipeline(copy.deepcopy(base))
    pipe.load_lora_weights(path, **options)
    return run(pipe.unet, state)


def by_us(generator, file, state):
    fits(file, generator.network)
    adapter = adapters.attach(generator, "read", rank=file.rank, alpha=file.alpha, sites=file.sites)
    adapter.load_state(file.state)
    with adapter.active():
        return run(generator.network["unet"], state)


def pipeline(unet):
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    return StableDiffusionPipeline(vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler,
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def same(x, y):
    torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def named(pairs):
    return {f"unet.{name}": value for name, value in forge.peft_names(pairs).items()}


@pytest.fixture(scope="module")
def pairs(base):
    return forge.lora(base, forge.attention_sites(base))


# --- out ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [3.0, 1.0, 5.3])
@pytest.mark.parametrize("style", ["diffusers", "comfyui"])
def test_what_is_written_draws_the_same_in_diffusers_and_comes_back(base, generator, state, pairs, tmp_path, style, alpha):
    adapter = adapters.attach(generator, "ours", rank=3, alpha=alpha)
    adapter.load_state(named(pairs))
    with adapter.active():
        ours = run(generator.network["unet"], state)
    assert (ours - run(base, state)).abs().max() > 0.1
    same(ours, by_formula(base, pairs, alpha / 3, state))

    file = write_lora(tmp_path, adapter.state(), rank=3, alpha=alpha, style=style, metadata={"intrinsic": "normal"})
    assert file == tmp_path / "pytorch_lora_weights.safetensors"
    same(by_diffusers(base, tmp_path, state), ours)
    if style == "diffusers":
        unet = copy.deepcopy(base)
        unet.load_lora_adapter(tmp_path, prefix="unet", use_safetensors=True)
        same(run(unet, state), ours)

    read = read_lora(file)
    assert (read.rank, read.alpha, read.style) == (3, alpha, {"comfyui": "kohya"}.get(style, style))
    assert read.metadata["intrinsic"] == "normal" and read.sites == sorted(adapter.site_names)
    assert read.size == adapter.size
    assert read.state.keys() == adapter.state().keys()
    assert all(torch.equal(read.state[name], value) for name, value in adapter.state().items())


def test_a_pipeline_samples_with_an_exported_probe(base, pairs, tmp_path):
    write_lora(tmp_path, named(pairs), rank=3, alpha=2.0)
    text = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(0))

    def sample(unet, folder=None):
        pipe = pipeline(unet)
        pipe.set_progress_bar_config(disable=True)
        pipe.vae_scale_factor = 8
        if folder:
            pipe.load_lora_weights(folder)
        return pipe(prompt_embeds=text, height=64, width=64, num_inference_steps=2, guidance_scale=1.0, output_type="latent",
                    generator=torch.Generator().manual_seed(0)).images

    merged = copy.deepcopy(base)
    for site, (a, b) in pairs.items():
        merged.get_submodule(site).weight.add_(2 / 3 * b @ a)
    drawn = sample(copy.deepcopy(base), tmp_path)
    assert (drawn - sample(copy.deepcopy(base))).abs().max() > 0.1
    torch.testing.assert_close(drawn, sample(merged), atol=1e-4, rtol=1e-4)


def test_comfyui_finds_kohyas_keys_and_a_scale_at_every_site(pairs, tmp_path):
    tensors = load_file(write_lora(tmp_path / "probe.safetensors", named(pairs), rank=3, alpha=6, style="comfyui"))
    assert len(tensors) == 3 * 48
    site = "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn2_to_out_0"
    assert tensors[f"{site}.lora_down.weight"].shape == (3, 8) and tensors[f"{site}.lora_up.weight"].shape == (8, 3)
    assert tensors[f"{site}.alpha"].dtype == torch.float32 and tensors[f"{site}.alpha"].item() == 6
    with safe_open(tmp_path / "probe.safetensors", "pt") as file:
        assert file.metadata()["ss_network_dim"] == "3" and file.metadata()["ss_network_alpha"] == "6"


def test_a_file_is_written_whole_or_not_at_all(pairs, tmp_path, monkeypatch):
    file = write_lora(tmp_path, named(pairs), rank=3, alpha=3)
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_lora(tmp_path, named(pairs), rank=3, alpha=3)

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match=f"cannot write {file}: No space left on device; free some space") as caught:
        write_lora(tmp_path, named(pairs), rank=3, alpha=4, overwrite=True)
    assert caught.value.errno == errno.ENOSPC
    assert file.read_bytes() == before and os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize("change, message", [
    (dict(style="a1111"), "style: expected diffusers or comfyui, got 'a1111'"),
    (dict(alpha=float("nan")), "alpha: expected a finite number"),
    (dict(rank=4), r"\[3, 8\]; expected floating-point numbers, 4 \(the rank\) along axis 0"),
    (dict(metadata={"format": "x"}), "metadata: 'format' is reserved"),
    (dict(metadata={"steps": 3}), "metadata: 'steps' is reserved or not text"),
    (dict(state={}), "state: it is empty"),
    (dict(state={"vae.decoder.conv_in.lora_A.weight": torch.zeros(3, 4)}), "vae.decoder.*has no place.*VAE"),
    (dict(state={"unet.conv_in.lora_A.weight": torch.zeros(3, 4)}), "unet.conv_in has lora_A only"),
])
def test_what_cannot_be_written_is_named(pairs, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_lora(tmp_path, **{"state": named(pairs), "rank": 3, "alpha": 3.0, **change})
    assert not os.listdir(tmp_path)


# --- in: every spelling, against diffusers' own reading of the same file -----------------------------------------

# name -> (writes a file, style, scale, how diffusers is told to load it: None where it cannot)
FOREIGN = {
    "attention-processor": (lambda at, b, p: forge.attention_processors(at / "normal.bin", p), "attention-processor", 1.0,
                            None),
    "attention-processor-prefixed": (lambda at, b, p: forge.attention_processors(at / "normal.bin", p, "unet."),
                                     "attention-processor", 1.0, {}),
    "lora-layers": (lambda at, b, p: forge.lora_layers(at / "lora.safetensors", p), "diffusers-lora-layer", 1.0, {}),
    "diffusers": (lambda at, b, p: forge.diffusers_weights(at / "pytorch_lora_weights.safetensors", p), "diffusers", 1.0, {}),
    "diffusers-metadata": (lambda at, b, p: forge.diffusers_weights(at / "lora.safetensors", p, r=3, lora_alpha=5,
                                                                    target_modules=list(p)), "diffusers", 5 / 3, {}),
    "diffusers-rslora": (lambda at, b, p: forge.diffusers_weights(at / "lora.safetensors", p, r=3, lora_alpha=2,
                                                                  use_rslora=True, target_modules=list(p)), "diffusers",
                         2 / 3 ** 0.5, {}),
    "diffusers-unet": (lambda at, b, p: forge.unet_adapter(at / "unet", copy.deepcopy(b), p, r=3, lora_alpha=4), "diffusers",
                       4 / 3, None),
    "peft": (lambda at, b, p: forge.peft_folder(at / "peft", copy.deepcopy(b), p, r=3, lora_alpha=5), "peft", 5 / 3, None),
    "kohya": (lambda at, b, p: forge.kohya(at / "lora.safetensors", p, 2.0), "kohya", 2 / 3, {}),
    "kohya-half": (lambda at, b, p: forge.kohya(at / "lora.safetensors", p, 1.5, dtype=torch.bfloat16), "kohya", 0.5, {}),
    "kohya-sgm": (lambda at, b, p: forge.kohya(at / "lora.safetensors", p, 2.0, forge.original_names(b)), "kohya-sgm", 2 / 3,
                  {"unet_config": True}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_draws_what_diffusers_draws_with_it(base, generator, state, pairs, tmp_path, name):
    write, style, scale, options = FOREIGN[name]
    path = write(tmp_path, base, pairs)
    read = read_lora(path)
    assert read.style == style and read.rank == 3 and read.alpha == pytest.approx(3 * scale)
    assert read.sites == sorted(generator.sites("attention"))
    assert {value.dtype for value in read.state.values()} == {torch.float32}
    ours = by_us(generator, read, state)
    if name == "peft":          # by PEFT's own reader
        from peft import PeftModel

        same(ours, run(PeftModel.from_pretrained(copy.deepcopy(base), path), state))
    if name == "diffusers-unet":
        unet = copy.deepcopy(base)
        unet.load_lora_adapter(path, prefix=None, use_safetensors=True)
        same(ours, run(unet, state))
    if options is not None:
        options = {"unet_config": base.config} if options else {}
        same(ours, by_diffusers(base, path, state, **options))
    if name != "kohya-half":
        same(ours, by_formula(base, pairs, scale, state))


def test_a_kohya_lora_of_convolutions_too(base, generator, state, tmp_path):
    """LoCon: resnets, sampling and proj_in, 3 × 3, 1 × 1 and strided, beside linear sites."""
    sites = [n for n, m in base.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and not n.startswith("conv_")]
    assert len(sites) > 100
    pairs = forge.lora(base, sites, rank=2, scale=0.15)
    path = forge.kohya(tmp_path / "locon.safetensors", pairs, 1.0)
    ours = by_us(generator, read_lora(path), state)
    same(ours, by_formula(base, pairs, 0.5, state))
    again = write_lora(tmp_path / "again.safetensors", read_lora(path).state, rank=2, alpha=1.0, style="comfyui")
    theirs, written = load_file(path), load_file(again)
    assert theirs.keys() == written.keys() and all(torch.equal(theirs[k], written[k]) for k in theirs)
    folder = write_lora(tmp_path / "d", read_lora(path).state, rank=2, alpha=1.0).parent
    same(ours, by_diffusers(base, folder, state))


def test_ranks_that_differ_are_filled_up_and_scales_that_differ_go_into_b(base, state, tmp_path):
    sites = forge.attention_sites(base)
    ranks, alphas = {s: 1 + i % 4 for i, s in enumerate(sites)}, {s: 0.5 + i % 3 for i, s in enumerate(sites)}
    pairs = forge.lora(base, sites, ranks)

    read = read_lora(forge.diffusers_weights(tmp_path / "ranks.safetensors", pairs))        # every scale 1
    assert (read.rank, read.alpha) == (4, 4.0)
    for site, (a, b) in pairs.items():
        whole_a, whole_b = (read.state[f"unet.{site}.lora_{letter}.weight"] for letter in "AB")
        assert torch.equal(whole_a[:len(a)], a) and not whole_a[len(a):].any()
        assert torch.equal(whole_b[:, :len(a)], b) and not whole_b[:, len(a):].any()
    same(by_us(UNet(copy.deepcopy(base)), read, state), by_diffusers(base, tmp_path / "ranks.safetensors", state))

    path = forge.kohya(tmp_path / "same-alpha.safetensors", pairs, 2.0)                     # scale 2 / rank, diffusers agrees
    read = read_lora(path)
    assert (read.rank, read.alpha) == (4, 4.0)
    same(by_us(UNet(copy.deepcopy(base)), read, state), by_diffusers(base, path, state))

    read = read_lora(forge.kohya(tmp_path / "both.safetensors", pairs, alphas))             # diffusers drops these alphas
    ours = by_us(UNet(copy.deepcopy(base)), read, state)
    same(ours, by_formula(base, pairs, {s: alphas[s] / ranks[s] for s in sites}, state))

    pattern = {s: alphas[s] for s in sites[:5]}
    config = dict(r=4, lora_alpha=6, rank_pattern=ranks, alpha_pattern=pattern, target_modules=sites)
    path = forge.diffusers_weights(tmp_path / "patterns.safetensors", pairs, **config)
    ours = by_us(UNet(copy.deepcopy(base)), read_lora(path), state)
    same(ours, by_formula(base, pairs, {s: pattern.get(s, 6) / ranks[s] for s in sites}, state))
    same(ours, by_diffusers(base, path, state))


def test_a_scale_of_zero_is_an_update_of_zero(base, generator, state, pairs, tmp_path):
    read = read_lora(forge.kohya(tmp_path / "zero.safetensors", pairs, 0.0))
    assert read.alpha == 3.0 and torch.equal(by_us(generator, read, state), run(base, state))


# --- full size ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd15():
    return on_meta("sd15")


@pytest.fixture(scope="module")
def sd21():
    return on_meta("sd21-base")


def zeros(generator, rank):
    """A LoRA on the sites that the generator itself names."""
    weights = {site: generator.network.get_submodule(site).weight.shape for site in generator.sites("all")}
    return {site.removeprefix("unet."): (torch.zeros(rank, i), torch.zeros(o, rank)) for site, (o, i) in weights.items()}


def test_the_papers_weights_for_sd15_have_its_sites_and_its_1594368_parameters(sd15, sd21, tmp_path):
    read = read_lora(forge.attention_processors(tmp_path / "normal.bin", zeros(sd15, 8)))
    attention = {f"unet.{name}.{part}" for name, module in sd15.network.unet.named_modules()
                 if name.endswith((".attn1", ".attn2")) for part in ("to_q", "to_k", "to_v", "to_out.0")}
    assert set(read.sites) == set(sd15.sites("all")) == attention and len(read.sites) == 16 * 8
    assert read.size == 1_594_368 and (read.rank, read.alpha) == (8, 8.0) and read.base_model == "SD1.5"
    assert fits(read, sd15.network) is None
    with pytest.raises(ValueError, match=r"normal.bin: LoRA of another base model \(it looks like SD1.5 by its shapes\); load "
                       r"SD1.5 as the generator: unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k has A "
                       r"\[8, 768\] and B \[320, 8\], where the network's weight of \[320, 1024\] takes "
                       r"\[8, 1024\] and \[320, 8\]"):
        fits(read, sd21.network)


def test_a_lora_of_sd21_has_207488_parameters_a_rank_and_is_not_of_sd15(sd15, sd21, tmp_path):
    read = read_lora(forge.kohya(tmp_path / "sd21.safetensors", zeros(sd21, 2), 2.0))
    assert read.size == 2 * 207_488 == adapters.lora_size(sd21, "all", 2) and fits(read, sd21.network) is None
    assert set(read.sites) == set(sd21.sites("all"))
    with pytest.raises(ValueError, match="it looks like SD2.1"):
        fits(read, sd15.network)


def test_a_lora_of_another_network_is_named_by_its_first_site(base, generator, pairs, tmp_path):
    small = UNet(forge.unet(down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")))
    read = read_lora(forge.kohya(tmp_path / "a.safetensors", pairs, 1.0))
    with pytest.raises(ValueError, match=r"LoRA of another base model; load it on the one .*: the network has no module "
                       r"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k with a weight"):
        fits(read, small.network)
    adapters.attach(generator, "first")             # PEFT has moved the weights to base_layer
    assert fits(read, generator.network) is None


@pytest.mark.parametrize("version", ["SD15", "SD21", "SDXL"])
def test_every_module_is_found_by_all_of_its_names(version):
    unet = forge.on_meta(getattr(forge, version))
    names = forge.original_names(unet)
    assert len(names) > 250
    for site, original in names.items():
        assert decode(f"{to_kohya(f'unet.{site}')}.lora_up.weight").site == f"unet.{site}"
        assert decode(f"lora_unet_{original.replace('.', '_')}.alpha").site == f"unet.{site}"
        assert decode(f"diffusion_model.{original}.lora_A.weight").site == f"unet.{site}"
