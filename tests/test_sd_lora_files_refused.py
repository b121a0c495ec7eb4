"""LoRA files that cannot be read: other methods, other networks, halves, hostile or damaged ones; each is named."""
import json
import os
import pickle
import zipfile

import make_sd_lora as forge
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.sd_files import read_lora
from generators.checkpoints import CheckpointError, UnsafePickleError

SITE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
A, B = {f"{SITE}.lora_A.weight": torch.ones(2, 4)}, {f"{SITE}.lora_B.weight": torch.ones(4, 2)}


@pytest.fixture(scope="module")
def pairs():
    unet = forge.unet()
    return forge.lora(unet, forge.attention_sites(unet))


@pytest.mark.parametrize("tensors, message", [
    ({**A, **B, f"{SITE}.lora_magnitude_vector": torch.ones(4)}, "lora_magnitude_vector' is of a DoRA"),
    ({"lora_unet_mid_block_attentions_0_proj_in.dora_scale": torch.ones(4, 1)}, "dora_scale' is of a DoRA"),
    ({"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.ones(4, 1)}, "is of a LoHa"),
    ({"lora_unet_mid_block_attentions_0_proj_in.lokr_w1": torch.ones(4, 1)}, "is of a LoKr"),
    ({"lora_unet_mid_block_resnets_0_conv1.lora_mid.weight": torch.ones(2, 2, 3, 3)}, "LoCon with a Tucker core"),
    ({"lora_unet_mid_block_resnets_0_conv1.diff": torch.ones(2, 2, 3, 3)}, "full difference of weights"),
    ({**A, **B, f"{SITE}.lora_B.bias": torch.ones(4)}, "LoRA with trained biases"),
    ({f"{SITE}.weight": torch.ones(4, 4)}, "to_q.weight' is no part of a LoRA; expected names such as"),
    ({"transformer.blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 4)}, "no module of Stable Diffusion's U-Net"),
    ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(2, 4)}, "no module of Stable Diffusion's U-Net"),
    ({"lora_unet_input_blocks_4_7_skip.lora_down.weight": torch.ones(2, 4)}, "no module of Stable Diffusion's U-Net"),
    (A, r"to_q.lora_A.weight has no lora_B beside it \(the up-projection"),
    (B, "to_q.lora_B.weight has no lora_A beside it"),
    ({**A, f"{SITE}.lora_B.weight": torch.ones(4, 3)}, r"\[2, 4\] and .* \[4, 3\] do not go together"),
    ({**A, f"{SITE}.lora_B.weight": torch.ones(4, 2, 1, 1)}, "do not go together"),
    ({**A, f"{SITE}.lora_B.weight": torch.full((4, 2), float("nan"))}, "lora_B.weight holds values that are not finite"),
    ({**A, f"{SITE}.lora_B.weight": torch.ones(4, 2, dtype=torch.int32)}, "int32 tensor; expected floating-point"),
    ({**A, **B, f"{SITE}.alpha": torch.ones(2)}, r"to_q.alpha is \[2\]; expected one finite number"),
    ({**A, **B, f"{SITE}.lora.down.weight": torch.ones(2, 4)}, "are the same weight"),
    ({k.replace(".weight", f".{n}.weight").replace("to_q", f"to_{p}"): v.clone() for n, p in (("one", "q"), ("two", "k"))
      for k, v in {**A, **B}.items()}, r"several adapters \(one, two\)"),
    ({f"{SITE}.lora_A.weight": torch.ones(40, 4), f"{SITE}.lora_B.weight": torch.ones(9, 40)},
     "lora_A.weight is of rank 40 at a weight of 9 × 4, beyond any LoRA"),
    ({}, "holds no LoRA of a U-Net"),
])
def test_what_is_no_lora_of_a_unet_is_refused_by_name(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=message) as error:
        read_lora(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(error.value)


@pytest.mark.parametrize("config, message", [
    ({"use_dora": True}, "use_dora: it is a DoRA"),
    ({"peft_type": "LOHA"}, "peft_type: expected LORA, got 'LOHA'"),
    ({"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16' changes the base's own weights"),
    ({"lora_alpha": "8"}, "lora_alpha: expected a number, got '8'"),
    ({"alpha_pattern": {"(a+)+$": 3}}, "is a regular expression"),
    ("[", "is not JSON"),
    (None, "adapter_config.json should lie beside it"),
])
def test_a_configuration_that_is_not_of_a_plain_lora_is_refused(tmp_path, config, message):
    save_file({**A, **B}, tmp_path / "adapter_model.safetensors")
    if config is not None:
        text = config if isinstance(config, str) else json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config})
        (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_lora(tmp_path)


def test_a_small_file_of_unequal_ranks_may_not_become_a_large_one(tmp_path):
    def write(low, rank):
        other, path = SITE.replace("to_q", "to_k"), tmp_path / "x.safetensors"
        save_file({f"{SITE}.lora_A.weight": torch.ones(rank, rank, dtype=torch.half),
                   f"{SITE}.lora_B.weight": torch.ones(rank, rank, dtype=torch.half),
                   f"{other}.lora_A.weight": torch.ones(1, low, dtype=torch.half),
                   f"{other}.lora_B.weight": torch.ones(low, 1, dtype=torch.half)}, path)
        return path

    even = read_lora(write(5000, 100))
    assert even.rank == 100 and even.state[f"{SITE.replace('to_q', 'to_k')}.lora_A.weight"].shape == (100, 5000)
    with pytest.raises(CheckpointError, match=r"x.safetensors: its sites have ranks from 1 to 200; .* 480000 numbers would be "
                       "80080000; it was tampered with"):
        read_lora(write(200000, 200))


def test_text_encoders_are_no_part_of_a_probe(pairs, tmp_path):
    path = forge.kohya(tmp_path / "a.safetensors", pairs, 1.0)
    alone = read_lora(path)
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    text = {f"{name}.lora_down.weight": torch.ones(3, 8), f"{name}.lora_up.weight": torch.zeros(8, 3),
            f"{name}.alpha": torch.tensor(3.0)}
    save_file({**load_file(path), **text}, path)
    assert alone.ignored == () and read_lora(path).ignored == (name,)                  # it changes nothing
    save_file({**load_file(path), f"{name}.lora_up.weight": torch.full((8, 3), 1e-3)}, path)
    with pytest.raises(CheckpointError, match=rf"a.safetensors also trains a text encoder \(1 modules, the first is {name}\).*"
                       "ignore_text_encoder=True"):
        read_lora(path)
    read = read_lora(path, ignore_text_encoder=True)
    assert read.ignored == (name,) and all(torch.equal(read.state[k], v) for k, v in alone.state.items())
    save_file({"text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.up.weight": torch.ones(8, 3)}, path)
    with pytest.raises(CheckpointError, match="holds no LoRA of a U-Net besides that of a text encoder"):
        read_lora(path, ignore_text_encoder=True)


class Hostile:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2)),
                                   lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False)])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, write):
    canary, path = tmp_path / "canary", tmp_path / "normal.bin"
    write({f"{SITE}.lora_A.weight": Hostile(canary)}, path)
    with pytest.raises(CheckpointError, match="normal.bin") as error:
        read_lora(path)
    assert not canary.exists()
    if write is torch.save:
        assert isinstance(error.value, UnsafePickleError) and "asks for the global `posix.system`" in str(error.value)
        pickle.loads(pickle.dumps(Hostile(canary)))             # the forgery has teeth
        assert canary.exists()


def test_damaged_files_and_folders_without_a_lora_are_named(pairs, tmp_path):
    whole = forge.attention_processors(tmp_path / "a.bin", pairs).read_bytes()
    tensor = forge.lora_layers(tmp_path / "a.safetensors", pairs).read_bytes()
    cases = {"cut.bin": (whole[:len(whole) // 2], "truncated or damaged"), "page.bin": (b"<html>", "a web page"),
             "none.bin": (b"", "empty"), "cut.safetensors": (tensor[:len(tensor) // 2], "truncated or not"),
             "lfs.safetensors": (b"version https://git-lfs", "Git LFS")}
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}.*{message}"):
            read_lora(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(CheckpointError, match="list.bin holds no state_dict: .* got a list"):
        read_lora(tmp_path / "list.bin")
    torch.save({f"{SITE}.lora_A.weight": torch.ones(1).expand(1 << 20, 1 << 20)}, tmp_path / "bomb.bin")
    with pytest.raises(CheckpointError, match="bomb.bin: its tensors claim 4398046511104 bytes"):
        read_lora(tmp_path / "bomb.bin")
    torch.save({f"{SITE}.lora_A.weight": torch.ones(2, 4, device="meta")}, tmp_path / "meta.bin")
    with pytest.raises(CheckpointError, match="meta.bin: .*lora_A.weight' is no plain tensor"):
        read_lora(tmp_path / "meta.bin")
    with zipfile.ZipFile(tmp_path / "zip.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1000))
    with pytest.raises(CheckpointError, match="zip.bin: a/data.pkl is compressed"):
        read_lora(tmp_path / "zip.bin")
    with pytest.raises(CheckpointError, match=r"or one .safetensors or .bin in the folder; there is 11: "):
        read_lora(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such LoRA"):
        read_lora(tmp_path / "nowhere")
