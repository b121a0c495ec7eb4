"""Forges Stable Diffusion checkpoints: folders that diffusers itself saves, and single files in the original layout.

No original file is at hand, so its layout is written down here the other way round: from diffusers' names to those of CompVis'
code (blocks counted through, resnets as `in_layers`/`emb_layers`/`out_layers`, VAE attention as 1x1 convolutions, up blocks of
the VAE from the image inwards) and to open_clip's (query, key and value in one matrix, a last layer that is never used).
"""
import json
import re
from pathlib import Path

import torch

UNET = dict(sample_size=8, block_out_channels=(16, 32, 32, 32), layers_per_block=2, norm_num_groups=8, cross_attention_dim=16,
            attention_head_dim=2)
UNET_V2 = {**UNET, "attention_head_dim": (2, 4, 4, 4), "use_linear_projection": True}
VAE = dict(block_out_channels=(8, 8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2,
           up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4, sample_size=64)
TEXT = dict(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, projection_dim=12,
            max_position_embeddings=9, bos_token_id=0, eos_token_id=2, pad_token_id=1)
# Stable Diffusion XL's: two text encoders, of which the second summarises the prompt, and no attention at the first resolution.
UNET_XL = dict(sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=(2, 4),
               down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
               transformer_layers_per_block=(1, 2), cross_attention_dim=40, use_linear_projection=True,
               addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=12 + 6 * 8)
SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}
# The names that diffusers gives, and gave until version 0.15, to the VAE's attention.
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
PARTS = ("unet", "vae", "text_encoder")
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def models(version: int = 1, seed: int = 0, **unet):
    """(unet, vae, text_encoder) with random weights, all of which make a difference."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        act = "quick_gelu" if version == 1 else "gelu"
        made = (UNet2DConditionModel(**{**(UNET if version == 1 else UNET_V2), **unet}), AutoencoderKL(**VAE),
                CLIPTextModel(CLIPTextConfig(**TEXT, hidden_act=act)))
        for model in made:
            for name, parameter in model.named_parameters():
                around = 1 if name.endswith("weight") and parameter.ndim == 1 else 0
                parameter.data.normal_(around, 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    return tuple(model.eval() for model in made)


def write_folder(folder: Path, version: int = 1, seed: int = 0, **unet) -> tuple:
    """Saves what a pipeline's save_pretrained does, part by part (importing pipelines takes ten seconds), and returns its
    (unet, vae, text_encoder)."""
    from diffusers import DDIMScheduler, PNDMScheduler

    made = models(version, seed, **unet)
    scheduler = (PNDMScheduler(**SCHEDULE, prediction_type="epsilon", steps_offset=1) if version == 1 else
                 DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", steps_offset=1, clip_sample=False))
    parts = dict(zip(("unet", "vae", "text_encoder"), made, strict=True), scheduler=scheduler)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {name: [type(part).__module__.partition(".")[0], type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1", "feature_extractor": [None, None],
        "image_encoder": [None, None], "requires_safety_checker": False, "safety_checker": [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"], **index}, indent=2))
    write_tokenizer(folder / "tokenizer")
    return made


def write_xl_folder(folder: Path, seed: int = 0, **unet) -> dict:
    """Saves a Stable Diffusion XL as its pipeline does, and returns its parts by name."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = dict(unet=UNet2DConditionModel(**{**UNET_XL, **unet}), vae=AutoencoderKL(**VAE, scaling_factor=0.13025),
                    text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)), text_encoder_2=CLIPTextModelWithProjection(
                        CLIPTextConfig(**{**TEXT, "hidden_size": 24, "intermediate_size": 48, "hidden_act": "gelu"})))
        for model in made.values():
            for name, parameter in model.named_parameters():
                around = 1 if name.endswith("weight") and parameter.ndim == 1 else 0
                parameter.data.normal_(around, 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
            model.eval()
    parts = dict(made, scheduler=EulerDiscreteScheduler(**SCHEDULE, prediction_type="epsilon", steps_offset=1))
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {name: [type(part).__module__.partition(".")[0], type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusionXLPipeline", "_diffusers_version": "0.42.1", "force_zeros_for_empty_prompt": True,
        "feature_extractor": [None, None], "image_encoder": [None, None], "add_watermarker": None,
        "tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "CLIPTokenizer"], **index}, indent=2))
    for name, padding in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        write_tokenizer(folder / name, ("!", "<|startoftext|>", "<|endoftext|>"), pad_token=padding)
    return parts


def write_tokenizer(folder: Path, marks: tuple[str, ...] = ("<|startoftext|>", "!", "<|endoftext|>"), **config) -> None:
    """A CLIP tokenizer of eight letters and one merge, in CLIP's two files. `marks` are its first words."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*"abcdefgh", *(f"{letter}</w>" for letter in "abcdefgh"), "ab</w>"]
    marks = {mark: i for i, mark in enumerate(marks)}
    (folder / "vocab.json").write_text(json.dumps({**marks, **{word: 3 + i for i, word in enumerate(words)}}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 9,
                                                              **config}))


def original(unet: dict, vae: dict, text: dict, second: dict | None = None, version: int = 1, layers: int = 2,
             blocks: int = 4) -> dict:
    """State dicts in diffusers' names -> one in the original layout.

    Args:
        second: of the second text encoder, which makes it a Stable Diffusion XL
        layers: resnets a block
        blocks: of the U-Net and of the VAE
    """
    state = {f"model.diffusion_model.{_unet(name, layers, set(unet))}": value for name, value in unet.items()}
    for name, value in vae.items():
        theirs = _vae(name, blocks)
        if "mid.attn_1" in theirs and value.ndim == 2:
            value = value[:, :, None, None]
        state[f"first_stage_model.{theirs}"] = value
    if second is not None:
        own = {name.removeprefix("text_model."): value for name, value in second.items()}
        return {**state, **_clip(text, "conditioner.embedders.0.transformer."),
                **_open_clip(own, "conditioner.embedders.1.model.")}
    return {**state, **(_clip(text) if version == 1 else _open_clip(text))}


def surroundings(state: dict) -> dict:
    """What files for further training hold besides: the noise schedule, and the U-Net's moving average."""
    average = {"model_ema." + "".join(name.split(".")[1:]): value + 0.5 for name, value in state.items()
               if name.startswith("model.diffusion_model.")}
    return {"betas": torch.linspace(0, 1, 10), "alphas_cumprod": torch.linspace(1, 0, 10),
            "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7, dtype=torch.int32), **average}


def _unet(name: str, layers: int, names: set) -> str:
    for ours, theirs in (("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
                         ("add_embedding.linear_1", "label_emb.0.0"), ("add_embedding.linear_2", "label_emb.0.2"),
                         ("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2")):
        if name.startswith(f"{ours}."):
            return theirs + name[len(ours):]
    side, block, kind, index, rest = re.fullmatch(r"(down|mid|up)_blocks?(?:\.(\d+))?\.(\w+)\.(\d+)\.(.*)", name).groups()
    block, index = int(block or 0), int(index)
    if kind == "resnets":
        first, _, last = rest.partition(".")
        rest = f"{RESNET[first]}.{last}"
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        after = 2 if f"up_blocks.{block}.attentions.0.norm.weight" in names else 1
        return f"output_blocks.{block * (layers + 1) + layers}.{after}.{rest}"
    number = block * (layers + 1) + index + (side == "down")
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}.{rest}"


def _vae(name: str, blocks: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for ours, theirs in (("mid_block.attentions.0", "mid.attn_1"), ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"),
                         ("to_v", "v"), ("to_out.0", "proj_out"), ("conv_shortcut", "nin_shortcut"),
                         ("conv_norm_out", "norm_out")):
        name = name.replace(ours, theirs)
    return name


def _clip(text: dict, place: str = "cond_stage_model.transformer.") -> dict:
    base = f"{place}text_model."
    places = torch.arange(len(text["embeddings.position_embedding.weight"]))[None]
    return {**{base + name: value for name, value in text.items()}, f"{base}embeddings.position_ids": places}


def _open_clip(text: dict, base: str = "cond_stage_model.model.") -> dict:
    """With its projection where it has one; without, the layer that is not used is added."""
    state = {f"{base}token_embedding.weight": text["embeddings.token_embedding.weight"],
             f"{base}positional_embedding": text["embeddings.position_embedding.weight"],
             f"{base}ln_final.weight": text["final_layer_norm.weight"], f"{base}ln_final.bias": text["final_layer_norm.bias"],
             f"{base}logit_scale": torch.tensor(4.6)}
    width = text["final_layer_norm.weight"].shape[0]
    projection = text.get("text_projection.weight")
    unused = text["final_layer_norm.weight"].new_zeros(width, 5)
    state[f"{base}text_projection"] = unused if projection is None else projection.T
    layers = {int(name.split(".")[2]) for name in text if name.startswith("encoder.layers.")}
    for layer in range(len(layers) + (projection is None)):            # the last one is there and not used
        last = layer == len(layers)
        ours, theirs = f"encoder.layers.{layer - last}.", f"{base}transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            state[f"{theirs}attn.in_proj_{kind}"] = torch.cat([text[f"{ours}self_attn.{x}_proj.{kind}"] for x in "qkv"])
            for a, b in OPEN_CLIP.items():
                state[f"{theirs}{b}.{kind}"] = text[f"{ours}{a}.{kind}"] + int(last)
    return state


def write_original(path: Path, version: int = 1, seed: int = 0, extra: bool = False, dtype: torch.dtype = torch.float32,
                   **unet) -> tuple:
    """Writes a .safetensors, or a .ckpt as Lightning does, and returns its (unet, vae, text_encoder)."""
    from safetensors.torch import save_file

    made = models(version, seed, **unet)
    states = [{name: value.to(dtype) for name, value in model.state_dict().items()} for model in made]
    states[2] = {name.removeprefix("text_model."): value for name, value in states[2].items()}
    state = original(*states, version=version)
    state = {name: value.contiguous() for name, value in {**state, **(surroundings(state) if extra else {})}.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"global_step": 470000, "state_dict": state, "callbacks": {}}, path)
    return made


def weights(folder: Path, part: str, variant: str = "") -> Path:
    """The file of a part's weights."""
    return folder / part / f"{WEIGHTS[part]}{variant}.safetensors"


def load(checkpoint, **options):
    """The network of a checkpoint."""
    from generators.stable_diffusion import StableDiffusionConfig
    from generators.stable_diffusion._format import native
    from generators.stable_diffusion._read import load_network

    return load_network(StableDiffusionConfig.from_dict(checkpoint.config), native(checkpoint.config, checkpoint.state)[1],
                        **options)


def outputs(unet, vae, text) -> dict[str, torch.Tensor]:
    """What the three make of fixed inputs."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        context = text(input_ids=torch.randint(3, 40, (2, 9), generator=rng)).last_hidden_state
        latent = vae.encode(torch.rand(2, 3, 64, 64, generator=rng) * 2 - 1).latent_dist.mean
        predicted = unet(torch.randn(2, unet.conv_in.in_channels, 8, 8, generator=rng), torch.tensor(999), context).sample
        return {"context": context, "latent": latent, "predicted": predicted, "image": vae.decode(latent).sample}


def same(network, models) -> None:
    """Asserts that a network has the weights of (unet, vae, text_encoder), and computes what they do, which is something.

    Not bit for bit: how a processor rounds may depend on where in the memory the same weights lie."""
    ours, theirs = outputs(network.unet, network.vae, network.text_encoder), outputs(*models)
    assert min(value.std() for value in theirs.values()) > 1e-3
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-4, msg=lambda said, name=name: f"{name}: {said}")
    for mine, given in zip((network.unet, network.vae, network.text_encoder), models, strict=True):
        known = given.state_dict()
        assert all(torch.equal(value, known[name]) for name, value in mine.state_dict().items())
