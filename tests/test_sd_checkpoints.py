"""Reading Stable Diffusion from folders that diffusers saved: every way weights lie in them, and what is wrong with one."""
import json
import os
import shutil
from pathlib import Path

import make_sd
import pytest
import torch
from make_sd import PARTS, WEIGHTS, load, same, weights
from safetensors.torch import load_file, save_file

from generators import checkpoints
from generators.checkpoints import CheckpointError, UnsafePickleError
from generators.stable_diffusion import StableDiffusionConfig
from generators.stable_diffusion._read import is_folder, is_single_file, read_conv_in, read_folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """{version: (folder that a pipeline saved, its models)}; not to be written to."""
    root = tmp_path_factory.mktemp("saved")
    return {version: (root / f"sd{version}", make_sd.write_folder(root / f"sd{version}", version)) for version in (1, 2)}


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved[1][0], tmp_path / "sd1"))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("version", [1, 2])
def test_a_folder_draws_what_its_pipeline_draws(version, saved):
    path, models = saved[version]
    checkpoint = read_folder(path)
    assert checkpoint.family == "stable-diffusion" and is_folder(path)
    assert checkpoint.config["scheduler"] == dict(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="epsilon" if version == 1 else "v_prediction")
    assert checkpoint.config["resolution"] == 64 and checkpoint.config["tokenizer"] == str(path / "tokenizer")
    assert checkpoint.config["unet"]["block_out_channels"] == [16, 32, 32, 32]
    network = load(checkpoint)
    same(network, models)
    assert not network.training
    assert network.embed(["ab c"]).shape == (1, 9, 16)
    assert not torch.equal(network.embed(["ab c"]), network.embed(["c d"]))


def test_weights_are_the_files_own_memory_until_their_type_changes(saved):
    checkpoint = read_folder(saved[1][0])
    network = load(checkpoint)
    parameters = dict(network.named_parameters())
    assert all(parameters[name].data_ptr() == value.data_ptr() for name, value in checkpoint.state.items())
    half = load(checkpoint, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in [*half.parameters(), *half.buffers()]} == {"cpu"}
    torch.testing.assert_close(half.unet.conv_in.weight.float(), network.unet.conv_in.weight, atol=2e-3, rtol=1e-2)


def test_a_native_file_keeps_everything(saved, tmp_path):
    checkpoint = read_folder(saved[1][0])
    config = StableDiffusionConfig.from_dict(checkpoint.config).to_dict()
    checkpoints.write_native(tmp_path / "a.safetensors", checkpoint.family, config, load(checkpoint).state_dict())
    again = checkpoints.read_native(tmp_path / "a.safetensors")
    assert not is_single_file(tmp_path / "a.safetensors")
    assert again.config == config and again.folded
    same(load(again), saved[1][1])


def test_the_hash_is_of_all_that_was_read(folder):
    before = read_folder(folder).sha256
    edit(folder / "model_index.json", _diffusers_version="0.1")
    assert read_folder(folder).sha256 == before
    state = load_file(weights(folder, "vae"))
    state["quant_conv.bias"] += 1
    save_file(state, weights(folder, "vae"))
    assert read_folder(folder).sha256 != before


def test_full_precision_is_read_unless_a_variant_is_asked_for(folder):
    for part in PARTS:
        save_file({n: v.half() for n, v in load_file(weights(folder, part)).items()}, weights(folder, part, ".fp16"))
    dtypes = [{v.dtype for v in read_folder(folder, variant=variant).state.values()} for variant in (None, "fp16")]
    assert dtypes == [{torch.float32}, {torch.float16}]
    weights(folder, "unet").rename(weights(folder, "unet", ".non_ema"))
    assert read_folder(folder).state["unet.conv_in.bias"].dtype == torch.float16
    mixed = read_folder(folder, variant="non_ema")
    assert {name.partition(".")[0] for name, v in mixed.state.items() if v.dtype == torch.float32} == set(PARTS)
    weights(folder, "unet", ".non_ema").rename(weights(folder, "unet"))
    with pytest.raises(CheckpointError, match="variant.*no 'bf16' weights"):
        read_folder(folder, variant="bf16")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(variant, saved, folder):
    expected, (unet, _, text) = read_folder(folder).state, saved[1][1]
    for part, model in (("unet", unet), ("text_encoder", text)):
        weights(folder, part).unlink()
        model.save_pretrained(folder / part, max_shard_size="300KB" if part == "unet" else "8KB", variant=variant)
        assert len(list((folder / part).glob("*-of-*.safetensors"))) > 1
    found = read_folder(folder, variant=variant).state
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    index = next((folder / "unet").glob("*.index*.json"))
    content = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../vae/diffusion_pytorch_model.safetensors"}}))
    with pytest.raises(CheckpointError, match="expected a weight_map of files beside it.*vae"):
        read_folder(folder)
    index.write_text(json.dumps(content))
    next((folder / "unet").glob("*00002-of*")).unlink()
    with pytest.raises(CheckpointError, match="lists .*00002.*which is not there"):
        read_folder(folder)


@pytest.mark.parametrize("convolutions", [False, True])
def test_old_names_of_the_vaes_attention(convolutions, folder):
    expected = read_folder(folder).state
    old = {}
    for name, value in load_file(weights(folder, "vae")).items():
        for ours, theirs in make_sd.OLD_ATTENTION.items():
            if f".{ours}." in name:
                name, value = name.replace(ours, theirs), value[..., None, None] if convolutions and value.ndim == 2 else value
        old[name] = value
    assert sum("proj_attn" in name for name in old) == 4
    save_file(old, weights(folder, "vae"))
    found = read_folder(folder).state
    assert set(found) == set(expected) and all(torch.equal(found[name], value) for name, value in expected.items())


def to_bin(folder, **changed):
    for part in PARTS:
        state = load_file(weights(folder, part))
        weights(folder, part).unlink()
        if part == "text_encoder":      # as transformers saved it before version 5
            state = {f"text_model.{n}": v for n, v in state.items()}
            state["text_model.embeddings.position_ids"] = torch.arange(9)[None]
        stem = "pytorch_model" if part == "text_encoder" else WEIGHTS[part]
        torch.save(changed.get(part, state), folder / part / f"{stem}.bin")


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_pickles_are_read_without_running_them(folder, tmp_path):
    expected, intact = read_folder(folder).state, Path(shutil.copytree(folder, tmp_path / "intact"))
    to_bin(folder)
    found = read_folder(folder).state
    assert set(found) == set(expected) and all(torch.equal(found[name], value) for name, value in expected.items())
    to_bin(intact, unet={"conv_in.weight": torch.ones(1), "x": Hostile(f"touch {tmp_path / 'ran'}")})
    with pytest.raises(UnsafePickleError, match=r"asks for the global `posix.system`.*nothing of it was run.*\.safetensors"):
        read_folder(intact)
    with pytest.raises(UnsafePickleError):
        read_conv_in(intact)
    assert not (tmp_path / "ran").exists()


def test_a_tensor_may_not_claim_more_than_the_file_holds(folder):
    to_bin(folder, vae={"encoder.conv_in.weight": torch.zeros(1).expand(1000, 1000, 1000)})
    with pytest.raises(CheckpointError, match="claim 4000000000 bytes, of which the file holds 4"):
        read_folder(folder)


DAMAGED = {
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-100]), "truncated or not a .safetensors.*download it again"),
    "empty": (lambda file: file.write_bytes(b""), "truncated or not a .safetensors"),
    "pointer": (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
    "quantised": (lambda file: save_file({n: v.to(torch.int8) for n, v in load_file(file).items()}, file), "int8.*quantised"),
    "gone": (lambda file: file.unlink(), "expected diffusion_pytorch_model.safetensors, found config.json"),
    "other": (lambda file: save_file({"a": torch.ones(2)}, file), r"conv_in.weight is missing.* and \d+ more"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_weights(damage, folder):
    apply, message = DAMAGED[damage]
    apply(weights(folder, "unet"))
    with pytest.raises(CheckpointError, match=message):
        read_folder(folder)


@pytest.mark.parametrize("part, name, changes, message", [
    ("", "model_index", {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]},
     "FluxPipeline, which has a transformer"),
    ("", "model_index", {"_class_name": "MarigoldDepthPipeline"}, "reads the image's latent before the noisy one.*marigold:"),
    ("", "model_index", {"unet": ["diffusers", "UNet3DConditionModel"]}, "unet is a UNet3DConditionModel, expected a UNet2D"),
    ("vae", "config", {"_class_name": "AsymmetricAutoencoderKL"}, "vae is a AsymmetricAutoencoderKL, expected a AutoencoderKL"),
    ("unet", "config", {"in_channels": 9}, "takes 9 channels, expected the latent's 4.*inpainting"),
    ("unet", "config", {"in_channels": 8}, "takes 8 channels.*read_conv_in"),
    ("unet", "config", {"out_channels": 8}, "predicts 8 channels, the VAE's latents have 4"),
    ("unet", "config", {"cross_attention_dim": 24}, "vectors of 24 numbers, the text encoder gives 16"),
    ("unet", "config", {"addition_embed_type": "text_time"}, "asks for more.*addition_embed_type"),
    ("unet", "config", {"sample_size": None}, "sample_size is None.*64 for 512 px"),
    ("unet", "config", {"layers_per_block": 10**9}, "unet.layers_per_block is 1000000000: beyond"),
    ("unet", "config", {"down_block_types": ["Nothing"] * 4}, "its configuration is not a Stable Diffusion's"),
    ("unet", "config", {"block_out_channels": "wide"}, "its configuration is not a Stable Diffusion's"),
    ("unet", "config", {"norm_num_groups": 7}, "its configuration is not a Stable Diffusion's"),
    ("unet", "config", {"block_out_channels": [16, 32, 32, 64]}, r"is \[.*\], expected \["),
    ("text_encoder", "config", {"num_hidden_layers": 3}, "text_encoder.encoder.layers.2.* is missing"),
    ("scheduler", "scheduler_config", {"prediction_type": "flow"}, "prediction_type is 'flow', expected one of epsilon"),
    ("scheduler", "scheduler_config", {"trained_betas": [0.1]}, "trained_betas"),
])
def test_folders_of_something_else(part, name, changes, message, folder):
    edit(folder / part / f"{name}.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_folder(folder)


def test_missing_parts(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="model_index.json"):
        read_folder(tmp_path / "nowhere")
    (folder / "vae" / "config.json").rename(folder / "config.json")
    with pytest.raises(CheckpointError, match="vae: there is no config.json"):
        read_folder(folder)
    shutil.rmtree(folder / "vae")
    with pytest.raises(CheckpointError, match="has no vae/; expected.*unet/, vae/, text_encoder/, scheduler/"):
        read_folder(folder)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(CheckpointError, match="model_index.json: not JSON"):
        read_folder(folder)


def test_without_a_tokenizer(folder, tmp_path):
    words = folder / "tokenizer"
    words.rename(tmp_path / "words")
    assert "tokenizer" not in read_folder(folder).config
    assert read_folder(folder, tokenizer=tmp_path / "words").config["tokenizer"] == str(tmp_path / "words")
    with pytest.raises(CheckpointError, match="tokenizer: .*vocab.json and merges.txt"):
        read_folder(folder, tokenizer=folder)


def test_schedules_state_what_they_leave_out(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}))
    assert read_folder(folder).config["scheduler"] == dict(
        num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02, beta_schedule="linear", prediction_type="epsilon",
        rescale_betas_zero_snr=True)
    path.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    with pytest.raises(CheckpointError, match="FlowMatchEulerDiscreteScheduler, has no beta_start"):
        read_folder(folder)


@pytest.mark.slow
def test_a_folder_is_what_a_pipeline_saves(saved, tmp_path):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(saved[1][0], local_files_only=True)
    pipeline.save_pretrained(tmp_path / "again")
    assert read_folder(tmp_path / "again").config["unet"] == read_folder(saved[1][0]).config["unet"]
    same(load(read_folder(tmp_path / "again")), saved[1][1])
    theirs, ours = (json.loads((path / "model_index.json").read_text()) for path in (tmp_path / "again", saved[1][0]))
    assert {name: value for name, value in theirs.items() if name != "_name_or_path"} == ours
