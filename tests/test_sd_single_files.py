"""Reading Stable Diffusion from single files in the original layout, up to the published models' true size."""
import make_sd
import pytest
import torch
from make_sd import PARTS, load, same, weights
from safetensors.torch import load_file, save_file

from generators import checkpoints
from generators.checkpoints import CheckpointError
from generators.stable_diffusion._format import expected_shapes
from generators.stable_diffusion._original import check_names, convert
from generators.stable_diffusion._parts import PUBLISHED, assemble, published
from generators.stable_diffusion._read import is_single_file, read_conv_in, read_folder, read_single_file


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """{version: (folder that a pipeline saved, its models)}; not to be written to."""
    root = tmp_path_factory.mktemp("saved")
    return {version: (root / f"sd{version}", make_sd.write_folder(root / f"sd{version}", version)) for version in (1, 2)}


@pytest.mark.parametrize("version, suffix, dtype", [(1, ".safetensors", torch.float32), (2, ".safetensors", torch.float16),
                                                    (1, ".ckpt", torch.float32)])
def test_a_single_file_is_what_it_was_made_from(version, suffix, dtype, saved, tmp_path):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    path = tmp_path / f"model{suffix}"
    unet, vae, text = make_sd.write_original(path, version, seed=5, dtype=dtype)
    checkpoint = read_single_file(path, config=saved[version][0])
    assert {value.dtype for value in checkpoint.state.values()} == {dtype}
    assert checkpoint.sha256 == checkpoints.file_sha256(path) and "tokenizer" not in checkpoint.config and is_single_file(path)
    assert checkpoint.config["scheduler"]["prediction_type"] == ("epsilon" if version == 1 else "v_prediction")
    network = load(checkpoint)
    same(network, [model.to(dtype).float() for model in (unet, vae, text)])
    # diffusers' own reader, told the same configuration, agrees
    place = str(saved[version][0])
    theirs = (UNet2DConditionModel.from_single_file(str(path), config=place, subfolder="unet", local_files_only=True),
              AutoencoderKL.from_single_file(str(path), config=place, subfolder="vae", local_files_only=True))
    same(network, [model.float().eval() for model in theirs] + [text])


def test_the_moving_average_is_what_draws(saved, tmp_path):
    path, place = tmp_path / "v1-5-pruned.safetensors", saved[1][0]
    unet, _, _ = make_sd.write_original(path, extra=True)
    assert is_single_file(path) and not is_single_file(weights(place, "text_encoder"))
    plain, average = (read_single_file(path, place, ema=ema).state["unet.conv_in.weight"] for ema in (False, True))
    assert torch.equal(plain, unet.conv_in.weight) and torch.equal(average, unet.conv_in.weight + 0.5)
    assert torch.equal(read_conv_in(path)[0], average)
    state = load_file(path)
    save_file({n: v for n, v in state.items() if n != "model_ema.diffusion_modelout2bias"}, path)
    with pytest.raises(CheckpointError, match="moving average of 1 weights is not there.*whole, or give .*ema-only"):
        read_single_file(path, place)
    save_file({n: v for n, v in state.items() if not n.startswith("model.")}, path)
    with pytest.raises(CheckpointError, match="moving average alone"):
        read_single_file(path, place)


@pytest.mark.parametrize("without, message", [
    ("first_stage_model.", "lacks the VAE, as some pruned files do"), ("cond_stage_model.", "lacks the text encoder"),
    ("model.", "lacks the U-Net"), ("cond_stage_model.transformer.text_model.final", "final_layer_norm.* is missing"),
])
def test_single_files_with_something_missing_or_left_over(without, message, saved, tmp_path):
    make_sd.write_original(tmp_path / "a.safetensors")
    state = {n: v for n, v in load_file(tmp_path / "a.safetensors").items() if not n.startswith(without)}
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_single_file(tmp_path / "b.safetensors", saved[1][0])
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="truncated"):
        read_single_file(tmp_path / "c.safetensors", saved[1][0])
    whole = load_file(tmp_path / "a.safetensors")
    save_file({**whole, "model.diffusion_model.gate": torch.ones(1)}, tmp_path / "d.safetensors")
    with pytest.raises(CheckpointError, match=r"weights below model.diffusion_model. became \d+ of the unet"):
        read_single_file(tmp_path / "d.safetensors", saved[1][0])
    with pytest.raises(CheckpointError, match="16 numbers, neither Stable Diffusion 1.x's 768, .*config="):
        read_single_file(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name, message", [
    ("conditioner.embedders.0.model.ln_final.weight", "the refiner of a Stable Diffusion XL"),
    ("joint_blocks.0.x", "Stable Diffusion 3"),
    ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "a FLUX"), ("lora_unet_down_0.lora_up.weight", "a LoRA"),
    ("unet.up_blocks.1.attentions.0.to_q.lora_A.weight", "a LoRA"), ("control_model.time_embed.0.bias", "ControlNet"),
    ("down_blocks.0.resnets.0.conv1.weight", "U-Net alone, in diffusers' layout"), ("decoder.up.0.block.0.bias", "a VAE"),
    ("input_blocks.0.0.weight", "a U-Net alone"), ("layer.weight", "no Stable Diffusion: none of its 1 weights .layer.weight"),
])
def test_what_else_a_single_file_may_be(name, message, tmp_path):
    with pytest.raises(CheckpointError, match=f"^x.safetensors is .*{message}"):
        check_names([name], "x.safetensors")
    save_file({name: torch.ones(1)}, tmp_path / "x.safetensors")
    assert is_single_file(tmp_path / "x.safetensors") == (name != "layer.weight")


def test_conv_in_of_instruct_pix2pix(saved, tmp_path):
    unet = make_sd.write_folder(tmp_path / "ip2p", in_channels=8)[0]
    single = make_sd.write_original(tmp_path / "ip2p.ckpt", in_channels=8)[0]
    files = ((tmp_path / "ip2p", unet), (weights(tmp_path / "ip2p", "unet"), unet), (tmp_path / "ip2p.ckpt", single))
    for path, expected in files:
        weight, bias = read_conv_in(path)
        assert weight.shape == (16, 8, 3, 3) and torch.equal(weight, expected.conv_in.weight)
        assert torch.equal(bias, expected.conv_in.bias)
    assert read_conv_in(saved[1][0])[0].shape == (16, 4, 3, 3)
    assert read_folder(tmp_path / "ip2p", concatenated=True).config["unet"]["in_channels"] == 8
    for read in (lambda: read_folder(tmp_path / "ip2p"), lambda: read_single_file(tmp_path / "ip2p.ckpt", tmp_path / "ip2p")):
        with pytest.raises(CheckpointError, match="takes 8 channels.*read_conv_in"):
            read()
    with pytest.raises(CheckpointError, match="holds no U-Net"):
        read_conv_in(weights(tmp_path / "ip2p", "vae"))
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        read_conv_in(tmp_path / "nowhere")


def meta(version, seed=0):
    """(published configuration, our names and shapes of it as tensors without numbers)."""
    stated = published(version)
    config = assemble(stated, stated["scheduler"], version)
    shapes = expected_shapes(config.to_dict(), version)
    return config, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


# U-Net of the model cards; VAE and text encoder: CLIP ViT-L/14's text tower has 123.06M, OpenCLIP ViT-H's less one layer 340M.
@pytest.mark.parametrize("version, unet, vae, text, resolution", [
    ("sd15", 859_520_964, 83_653_863, 123_060_480, 512),
    ("sd21-base", 865_910_724, 83_653_863, 340_387_840, 512),
    ("sd21", 865_910_724, 83_653_863, 340_387_840, 768),
])
def test_the_published_models_at_their_true_size(version, unet, vae, text, resolution):
    config, state = meta(version)
    assert config.resolution == resolution and config.factor == 8 and config.vae["scaling_factor"] == 0.18215
    assert config.scheduler["prediction_type"] == ("v_prediction" if version == "sd21" else "epsilon")
    counts = {part: sum(v.numel() for n, v in state.items() if n.startswith(f"{part}.")) for part in PARTS}
    assert counts == {"unet": unet, "vae": vae, "text_encoder": text}
    # the original layout of this very size becomes these very names and shapes
    given = {part: {n.removeprefix(f"{part}."): v for n, v in state.items() if n.startswith(f"{part}.")} for part in PARTS}
    original = make_sd.original(*given.values(), version=1 if version == "sd15" else 2)
    check_names(original, version)
    assert original["model.diffusion_model.output_blocks.11.0.skip_connection.weight"].shape == (320, 640, 1, 1)
    assert original["model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"].shape == (
        320, 768 if version == "sd15" else 1024)
    found = convert(original, config.to_dict(), version)
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in state.items()}


def test_what_a_single_file_does_not_say(tmp_path, monkeypatch):
    read = "generators.stable_diffusion._read."
    states = {}
    for version in ("sd15", "sd21-base"):
        _, state = meta(version)
        given = {part: {n.removeprefix(f"{part}."): v for n, v in state.items() if n.startswith(f"{part}.")} for part in PARTS}
        states[version] = make_sd.original(*given.values(), version=1 if version == "sd15" else 2)
    monkeypatch.setattr(read + "read_tensors", lambda path: states["sd15" if "v1" in path.name else "sd21-base"])
    monkeypatch.setattr(read + "plain", lambda state, source: state)

    def told(name, **options):
        (tmp_path / name).touch()
        config = read_single_file(tmp_path / name, **options).config
        return config["scheduler"]["prediction_type"], config["resolution"], config["unet"].get("upcast_attention")

    assert told("v1-5-pruned-emaonly.safetensors") == ("epsilon", 512, False)
    assert told("v2-1_512-ema-pruned.safetensors") == ("epsilon", 512, False)
    assert told("v2-1_768-ema-pruned.ckpt") == ("v_prediction", 768, True)
    assert told("mine.safetensors", prediction_type="v_prediction") == ("v_prediction", 768, True)
    assert told("mine.safetensors", config="sd21", prediction_type="epsilon") == ("epsilon", 768, True)
    with pytest.warns(UserWarning, match="two kinds.*config='sd21'.*config='sd21-base' ends this"):
        assert told("mine.safetensors") == ("epsilon", 512, False)
    with pytest.raises(ValueError, match="prediction_type: expected one of epsilon"):
        told("mine.safetensors", prediction_type="v")
    with pytest.raises(ValueError, match="config: expected one of sd15, sd21-base, sd21"):
        told("mine.safetensors", config="sd3")
    with pytest.raises(CheckpointError, match="768 numbers, the given configuration says 1024; leave config out"):
        told("v1.safetensors", config="sd21")
    inpainting = "model.diffusion_model.input_blocks.0.0.weight"
    states["sd15"][inpainting] = torch.empty(320, 9, 3, 3, device="meta")
    with pytest.raises(CheckpointError, match="takes 9 channels.*inpainting"):
        told("v1-5-inpainting.safetensors")


def test_one_network_has_one_configuration():
    """A config.json as diffusers wrote it in 2022, and one that states every argument there is, are the same."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    stated = published("sd15")
    old = {name: value for name, value in stated["unet"].items() if name not in ("use_linear_projection", "upcast_attention")}
    with torch.device("meta"):
        full = {"unet": dict(UNet2DConditionModel(**stated["unet"]).config), "vae": dict(AutoencoderKL(**stated["vae"]).config)}
    text = {**stated["text_encoder"], "dropout": 0.0, "torch_dtype": "float32", "architectures": ["CLIPTextModel"]}
    expected = assemble(stated, stated["scheduler"], "").to_dict()
    assert {name: stated[name] for name in PARTS} == {name: expected[name] for name in PARTS}
    assert assemble({**stated, "unet": {**old, "_diffusers_version": "0.6.0"}}, stated["scheduler"], "").to_dict() == expected
    assert len(full["unet"]) > 40
    assert assemble({**full, "text_encoder": text}, stated["scheduler"], "").to_dict() == expected
    assert all(published(name)["source"].startswith("https://") for name in PUBLISHED)
