"""A native file states its own configuration: what of it may reach diffusers and transformers."""
import copy
import json

import pytest
from families import FAMILIES
from safetensors import safe_open
from safetensors.torch import save_file

from generators import checkpoints
from generators.checkpoints import CheckpointError
from generators.stable_diffusion._format import file_name


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(file, its configuration)"""
    generator = FAMILIES["stable-diffusion"][0]()
    state = {file_name(name): value for name, value in generator.network.state_dict().items()}
    path = tmp_path_factory.mktemp("native") / "a.safetensors"
    config = generator.network.config.to_dict()
    checkpoints.write_native(path, "stable-diffusion", config, state)
    return path, config


def changed(written, tmp_path, part, entries):
    """The file with another configuration, as who wants to do harm would write it: not with `write_native`."""
    path, config = written
    config = copy.deepcopy(config)
    (config[part] if part else config).update(entries)
    with safe_open(path, "pt") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(state, tmp_path / "b.safetensors", {**metadata, "config": json.dumps(config)})
    return tmp_path / "b.safetensors"


def test_an_untouched_file_is_read(written, tmp_path):
    assert checkpoints.read_checkpoint(changed(written, tmp_path, "unet", {})).config == written[1]


@pytest.mark.parametrize("part, entries, message", [
    ("text_encoder", {"attn_implementation": "someone/kernel"}, "text_encoder states attn_implementation, which is no field"),
    ("text_encoder", {"auto_map": {"AutoModel": "evil.Evil"}}, "text_encoder states auto_map"),
    ("text_encoder", {"dtype": "float16", "_name_or_path": "someone/model"}, "text_encoder states _name_or_path, dtype"),
    ("unet", {"_class_name": "FluxTransformer2DModel"}, "unet states _class_name"),
    ("unet", {"quantization_config": {}}, "unet states quantization_config"),
    ("vae", {"use_safetensors": False}, "vae states use_safetensors"),
    ("scheduler", {"_class_name": "DDIMScheduler"}, "scheduler states _class_name"),
    ("unet", {"class_embed_type": "timestep"}, "asks for more than an image.*class_embed_type"),
    ("unet", {"addition_embed_type": "text"}, "asks for more than an image.*addition_embed_type"),
    ("unet", {"encoder_hid_dim": 16}, "asks for more than an image.*encoder_hid_dim"),
    ("unet", {"in_channels": 9}, "takes 9 channels.*inpainting"),
    ("scheduler", {"prediction_type": "flow"}, "prediction_type is 'flow'"),
    ("scheduler", {"num_train_timesteps": 10**12}, "scheduler.num_train_timesteps is 1000000000000: beyond any"),
    ("", {"resolution": "32"}, "resolution is '32', expected a multiple of 4"),
    ("", {"resolution": 30}, "resolution is 30, expected a multiple of 4"),
    ("", {"tokenizer": "/"}, "names a tokenizer"),
])
def test_fields_that_no_part_has_are_refused(part, entries, message, written, tmp_path, monkeypatch):
    def no(*args, **kwargs):
        raise AssertionError("a network was built")

    monkeypatch.setattr("generators.stable_diffusion._network.StableDiffusionNetwork.__init__", no)
    with pytest.raises(CheckpointError, match=f"b.safetensors: .*{message}"):
        checkpoints.read_checkpoint(changed(written, tmp_path, part, entries))


def test_the_forgery_would_reach_the_text_encoder(written, tmp_path, monkeypatch):
    """Without the check: transformers acts on what the header says."""
    monkeypatch.setattr("generators.stable_diffusion._format.check_fields", lambda config, source: None)
    asked = []
    from transformers import CLIPTextConfig

    plain = CLIPTextConfig.__init__
    monkeypatch.setattr(CLIPTextConfig, "__init__", lambda self, **kwargs: asked.append(kwargs) or plain(self, **kwargs))
    file = changed(written, tmp_path, "text_encoder", {"attn_implementation": "eager", "initializer_range": 0.03})
    checkpoints.read_checkpoint(file)
    assert asked[0]["attn_implementation"] == "eager"
