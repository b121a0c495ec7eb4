"""Makes folders and files as the published teachers come, from tiny random configurations."""
import json
from pathlib import Path

import make_sd
import torch

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TINY_DPT = dict(width=64, depth=2, grid=4, stem=32, depths=(1, 1, 1), read=(0, 1), features=32)


def spread(model, seed: int, scale: float = 1.0):
    """Random weights that all make a difference, so that images are told apart."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        gain = name.endswith("weight") and parameter.ndim == 1
        fan_in = max(parameter[0].numel(), 1) if parameter.ndim else 1
        values = torch.randn(parameter.shape, generator=generator) * (0.1 if parameter.ndim == 1 else scale * fan_in**-0.5)
        parameter.data.copy_(values + float(gain))
    return model.eval()


def _backbone(kind: str):
    from transformers import BeitConfig, Dinov2Config

    stages = [f"stage{i}" for i in range(1, 5)]
    own = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, reshape_hidden_states=False, out_features=stages)
    if kind == "dinov2":
        return Dinov2Config(image_size=56, patch_size=14, mlp_ratio=2, **own)
    return BeitConfig(image_size=64, patch_size=16, intermediate_size=64, use_relative_position_bias=True, **own)


def save(model, folder: Path, processor: dict) -> Path:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def depth_anything(folder: Path, seed: int = 0, **config) -> Path:
    """As depth-anything/Depth-Anything-V2-Small-hf; `depth_estimation_type="metric", max_depth=20` for the metric ones."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

    made = DepthAnythingConfig(backbone_config=_backbone("dinov2"), reassemble_hidden_size=32, neck_hidden_sizes=[8, 8, 16, 16],
                               fusion_hidden_size=16, head_hidden_size=8, **config)
    return save(spread(DepthAnythingForDepthEstimation(made), seed), folder, dict(
        image_processor_type="DPTImageProcessor", size=dict(height=56, width=56), keep_aspect_ratio=True, ensure_multiple_of=14,
        do_pad=False, resample=3, image_mean=MEAN, image_std=STD))


def dinov2(folder: Path, seed: int = 0) -> Path:
    """As facebook/dpt-dinov2-small-nyu, whose processor pads and takes bytes."""
    from transformers import DPTConfig, DPTForDepthEstimation

    made = DPTConfig(backbone_config=_backbone("dinov2"), neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16,
                     hidden_size=32, add_projection=False)
    return save(spread(DPTForDepthEstimation(made), seed), folder, dict(
        image_processor_type="DPTImageProcessor", do_resize=False, do_rescale=False, do_pad=True, size_divisor=14,
        image_mean=[255 * x for x in MEAN], image_std=[255 * x for x in STD]))


def midas(folder: Path, seed: int = 0) -> Path:
    """As Intel/dpt-large: a ViT of its own, square pictures, the coarsest fusion block's idle half not stored."""
    from transformers import DPTConfig, DPTForDepthEstimation

    made = DPTConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=64,
                     patch_size=16, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16)
    model = spread(DPTForDepthEstimation(made), seed)
    kept = {name: value for name, value in model.state_dict().items() if "fusion_stage.layers.0.residual_layer1." not in name}
    model.save_pretrained(folder, state_dict=kept)
    (folder / "preprocessor_config.json").write_text(json.dumps(dict(
        feature_extractor_type="DPTFeatureExtractor", size=64, resample=2, keep_aspect_ratio=True, image_mean=[0.5] * 3,
        image_std=[0.5] * 3)))
    return folder


def zoedepth(folder: Path, seed: int = 0, heads: int = 1) -> Path:
    """As Intel/zoedepth-nyu; with two heads as Intel/zoedepth-nyu-kitti."""
    from transformers import ZoeDepthConfig, ZoeDepthForDepthEstimation

    bins = [dict(n_bins=8, min_depth=1e-3, max_depth=far, name=name) for name, far in (("nyu", 10.0), ("kitti", 80.0))]
    more = dict(num_patch_transformer_layers=4, patch_transformer_hidden_size=128, patch_transformer_intermediate_size=32,
                patch_transformer_num_attention_heads=2) if heads > 1 else {}
    made = ZoeDepthConfig(
        backbone_config=_backbone("beit"), neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16, bottleneck_features=16,
        num_attractors=[4, 2, 2, 1], bin_embedding_dim=16, num_relative_features=32, bin_configurations=bins[:heads], **more)
    return save(spread(ZoeDepthForDepthEstimation(made), seed), folder, dict(
        image_processor_type="ZoeDepthImageProcessor", size=dict(height=64, width=64), keep_aspect_ratio=True,
        ensure_multiple_of=32, do_pad=True, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3))


def glpn(folder: Path, seed: int = 0) -> Path:
    """As vinvino02/glpn-nyu."""
    from transformers import GLPNConfig, GLPNForDepthEstimation

    made = GLPNConfig(depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8)
    return save(spread(GLPNForDepthEstimation(made), seed), folder,
                dict(image_processor_type="GLPNImageProcessor", size_divisor=32, resample=2, do_rescale=True))


def depth_pro(folder: Path, seed: int = 0) -> Path:
    """As apple/DepthPro-hf: inverse depth, and the camera's field of view."""
    from transformers import DepthProConfig, DepthProForDepthEstimation

    vit = dict(model_type="dinov2", num_hidden_layers=4, hidden_size=16, num_attention_heads=2, patch_size=4, mlp_ratio=2,
               image_size=16)
    made = DepthProConfig(
        fusion_hidden_size=16, patch_size=16, intermediate_hook_ids=[2, 1], intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.5, 1.0], scaled_images_overlap_ratios=[0.0, 0.25], scaled_images_feature_dims=[16, 16],
        use_fov_model=True, image_model_config=vit, patch_model_config=vit, fov_model_config=vit)
    model = spread(DepthProForDepthEstimation(made), seed)
    for name, value in (("head.layers.4.bias", 1.0), ("fov_model.head.layers.4.bias", 60.0)):
        dict(model.named_parameters())[name].data += value
    return save(model, folder, dict(
        image_processor_type="DepthProImageProcessorFast", size=dict(height=64, width=64), resample=2, image_mean=[0.5] * 3,
        image_std=[0.5] * 3))


def omnidata(path: Path, channels: int, seed: int = 0) -> Path:
    """A Lightning checkpoint as omnidata_dpt_normal_v2.ckpt, in small, with the entries that nothing reads."""
    from probes.teachers._dpt_hybrid import DPTHybrid

    state = spread(DPTHybrid(channels, heads=1, **TINY_DPT), seed).state_dict()
    state["scratch.output_conv.4.bias"] += 0.5
    state["pretrained.model.norm.weight"] = torch.ones(64)
    state["pretrained.model.head.weight"] = torch.zeros(10, 64)
    content = dict(epoch=1, global_step=2, state_dict={f"model.{name}": value for name, value in state.items()},
                   hyper_parameters={}, **{"pytorch-lightning_version": "1.4.0"})
    torch.save(content, path)
    return path


LIGHTING = dict(target_names=["albedo", "shading", "residual"], albedo=dict(prediction_space="linear", up_to_scale=False),
                shading=dict(prediction_space="linear", up_to_scale=True),
                residual=dict(prediction_space="linear", up_to_scale=True))
APPEARANCE = dict(target_names=["albedo", "material"], albedo=dict(prediction_space="srgb"),
                  material=dict(prediction_space="stack", sub_target_names=["roughness", "metallicity", None]),
                  roughness=dict(prediction_space="linear"), metallicity=dict(prediction_space="linear"))
_KINDS = {
    "MarigoldDepthPipeline": dict(prediction_type="depth", scale_invariant=True, shift_invariant=True),
    "MarigoldNormalsPipeline": dict(prediction_type="normals", use_full_z_range=True),
    "MarigoldIntrinsicsPipeline": dict(prediction_type="intrinsics"),
}


def marigold(folder: Path, pipeline: str = "MarigoldDepthPipeline", seed: int = 0, targets: int = 1,
             scheduler: str = "DDIMScheduler", **settings) -> Path:
    """As prs-eth/marigold-depth-v1-1 and its siblings: a Stable Diffusion whose U-Net sees the image's latent beside its."""
    import diffusers

    unet, vae, text = make_sd.models(2, seed, in_channels=4 * (1 + targets), out_channels=4 * targets, layers_per_block=1)
    schedule = dict(prediction_type="v_prediction", timestep_spacing="trailing", steps_offset=1, **make_sd.SCHEDULE)
    made = getattr(diffusers, scheduler)(**schedule)
    for name, part in dict(unet=unet, vae=vae, text_encoder=text, scheduler=made).items():
        part.save_pretrained(folder / name)
    make_sd.write_tokenizer(folder / "tokenizer")
    index = dict(_class_name=pipeline, _diffusers_version="0.32.0", default_denoising_steps=2, default_processing_resolution=32,
                 **_KINDS[pipeline], **settings)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
