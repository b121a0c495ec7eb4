"""Reading generators from every form they are published in."""

import errno
import hashlib
import importlib.util
import json
import os
from pathlib import Path

import make_pickles
import make_taming
import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from generators._files import OutputError
from generators.checkpoints import (
    CheckpointError,
    UnsafePickleError,
    convert,
    native_state,
    read_checkpoint,
    read_native,
    write_native,
)
from generators.stylegan2 import StyleGAN2Config, StyleGAN2Network, fold_gains
from generators.stylegan2._format import expected_shapes

GOLDEN = Path(__file__).parent / "golden"
TINY = {
    "img_resolution": 16,
    "z_dim": 6,
    "c_dim": 0,
    "w_dim": 8,
    "img_channels": 3,
    "mapping_layers": 2,
    "mapping_lr_multiplier": 0.01,
    "channel_base": 64,
    "channel_max": 12,
    "architecture": "skip",
    "conv_clamp": None,
    "num_fp16_res": 0,
}
VARIANTS = {
    "skip": {},
    "resnet": {"architecture": "resnet"},
    "orig": {"architecture": "orig"},
    "conditional": {"c_dim": 5},
    "embedding": {"c_dim": 5, "embed_dim": 3},
    "wide-mapping": {"mapping_dim": 10, "mapping_layers": 3},
    "half": {"conv_clamp": 256, "num_fp16_res": 2},
    "filter": {"resample_filter": (1, 2, 1)},
    "linear": {"activation": "linear", "mapping_lr_multiplier": 0.5},
    "grey": {"img_channels": 1, "img_resolution": 32},
    "silent": {"use_noise": False},
    "pruned": {"channels": {4: 7, 8: 9, 16: 3}},
}


def random_state(config: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that a checkpoint of this configuration could hold."""
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_shapes(StyleGAN2Config(**config).to_dict(), "here")
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def golden(name: str) -> tuple[dict, dict, dict]:
    """(specification, arrays, state) of a golden file, with the weights that its reference was filled with."""
    loader = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    spec = json.loads((GOLDEN / f"{name}.json").read_text())
    state = {key: torch.from_numpy(np.array(module.fill(key, shape))) for key, shape in spec["state"].items()}
    return spec, dict(np.load(GOLDEN / f"{name}.npz")), state


def golden_config(spec: dict) -> dict:
    kwargs = dict(spec["kwargs"])
    mapping, synthesis = kwargs.pop("mapping_kwargs"), kwargs.pop("synthesis_kwargs")
    return {**kwargs, **synthesis, "mapping_layers": mapping["num_layers"]}


def same_state(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def saved(tmp_path):
    """Writes bytes to a file and returns its path."""

    def save(data: bytes, name: str = "network.pkl") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return save


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_persistence_pickle_gives_back_weights_and_configuration(variant, saved):
    config = {**TINY, **VARIANTS[variant]}
    state = random_state(config)
    path = saved(make_pickles.ada_pickle(state, config))
    read = read_checkpoint(path)
    assert read.family == "stylegan2" and not read.folded and read.source == str(path)
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same_state(read.state, state)
    parsed, wanted = StyleGAN2Config.from_dict(read.config), StyleGAN2Config(**config)
    for field in ("img_resolution", "z_dim", "c_dim", "w_dim", "img_channels", "mapping_layers", "mapping_dim"):
        assert getattr(parsed, field) == getattr(wanted, field), field
    for field in ("mapping_lr_multiplier", "architecture", "activation", "conv_clamp", "num_fp16_res", "use_noise"):
        assert getattr(parsed, field) == getattr(wanted, field), field
    assert parsed.resample_filter == wanted.resample_filter
    assert [parsed.channels_at(r) for r in parsed.resolutions] == [wanted.channels_at(r) for r in wanted.resolutions]
    json.dumps(read.config)
    StyleGAN2Network(parsed).load_state_dict(fold_gains(read.state, parsed), strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_expected_entries_are_those_of_the_network(variant):
    config = StyleGAN2Config(**{**TINY, **VARIANTS[variant]})
    wanted = {name: tuple(value.shape) for name, value in StyleGAN2Network(config).state_dict().items()}
    assert expected_shapes(config.to_dict(), "here") == wanted


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("form", ["ada", "tensorflow"])
def test_both_numpy_dialects_read_the_same(core, form, saved):
    state = random_state(TINY)
    data = (make_pickles.ada_pickle if form == "ada" else make_pickles.tensorflow_pickle)(state, TINY)
    rewritten = make_pickles.rewrite_numpy(data, core)
    other = {"numpy.core": b"numpy._core.", "numpy._core": b"numpy.core."}[core]
    assert f"{core}.".encode() in rewritten and other not in rewritten
    read = read_checkpoint(saved(rewritten)).state
    assert read.keys() == state.keys() and all(torch.allclose(read[k], state[k], atol=1e-6) for k in state)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_any_binary_protocol_reads(protocol, saved):
    state = random_state(TINY)
    assert same_state(read_checkpoint(saved(make_pickles.ada_pickle(state, TINY, protocol))).state, state)


def test_weights_win_over_constructor_arguments_that_disagree(saved):
    state = random_state(TINY)
    wrong = {"synthesis_kwargs": {"channel_base": 32768, "channel_max": 512}, "mapping_kwargs": {"num_layers": 8}}
    config = read_checkpoint(saved(make_pickles.ada_pickle(state, TINY, **wrong))).config
    assert (config["channel_base"], config["channel_max"], config["mapping_layers"]) == (64, 12, 2)
    parsed = StyleGAN2Config.from_dict(config)
    assert [parsed.channels_at(r) for r in (4, 8, 16)] == [12, 8, 4]


def test_constructor_arguments_fill_in_for_attributes_an_old_class_lacks(saved):
    config = {**TINY, "architecture": "resnet", "conv_clamp": 256, "channel_base": 128, "channel_max": 64}

    def bare(path: str, config: dict) -> make_pickles.Persistent:
        return make_pickles.Persistent("Generator" if path == "" else "Module")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_pickles, "_describe", bare)
        data = make_pickles.ada_pickle(random_state(config), config)
    read = read_checkpoint(saved(data)).config
    assert (read["architecture"], read["conv_clamp"], read["mapping_lr_multiplier"]) == ("resnet", 256, 0.01)
    assert (read["channel_base"], read["channel_max"]) == (128, 64)


def test_a_missing_weight_is_named(saved):
    state = random_state(TINY)
    del state["synthesis.b8.conv1.affine.bias"]
    with pytest.raises(CheckpointError, match=r"synthesis\.b8\.conv1\.affine\.bias is missing"):
        read_checkpoint(saved(make_pickles.ada_pickle(state, TINY)))


def test_an_added_layer_is_named(saved):
    state = {**random_state(TINY), "synthesis.b8.torgb.extra": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"synthesis\.b8\.torgb\.extra is not known"):
        read_checkpoint(saved(make_pickles.ada_pickle(state, TINY)))


def test_a_wrong_shape_is_named(saved):
    state = {**random_state(TINY), "synthesis.b16.conv0.weight": torch.ones(4, 5, 3, 3)}
    with pytest.raises(CheckpointError, match=r"conv0\.weight is \[4, 5, 3, 3\], expected \[4, 8, 3, 3\]"):
        read_checkpoint(saved(make_pickles.ada_pickle(state, TINY)))


def test_the_tensorflow_form_gives_back_weights_and_configuration(saved):
    for variant in ("skip", "resnet", "orig"):
        config = {**TINY, **VARIANTS[variant]}
        state = random_state(config)
        read = read_checkpoint(saved(make_pickles.tensorflow_pickle(state, config)))
        assert read.family == "stylegan2" and read.config["architecture"] == config["architecture"]
        assert read.state.keys() == state.keys()
        assert all(torch.allclose(read.state[name], state[name], atol=1e-6) for name in state)
        assert (read.config["channel_base"], read.config["channel_max"]) == (64, 12)


def test_a_conditional_tensorflow_network_is_refused(saved):
    with pytest.raises(CheckpointError, match="label_size=10"):
        read_checkpoint(saved(make_pickles.tensorflow_pickle(random_state(TINY), TINY, label_size=10)))


@pytest.mark.parametrize("form", ["ada", "tensorflow", "native"])
def test_every_form_draws_the_golden_images(form, saved, tmp_path):
    """A pickle that is read, folded and loaded reproduces the reference implementation's images."""
    spec, arrays, state = golden("stylegan2-tiny")
    config = golden_config(spec)
    forge = make_pickles.tensorflow_pickle if form == "tensorflow" else make_pickles.ada_pickle
    path = saved(forge(state, config))
    if form == "native":
        path = convert(path, tmp_path / "native.safetensors").destination
    native, weights = native_state(read_checkpoint(path))
    network = StyleGAN2Network(StyleGAN2Config.from_dict(native)).eval()
    network.load_state_dict(weights, strict=True)
    with torch.no_grad():
        image = network(torch.from_numpy(arrays["z"]), truncation_psi=spec["truncation_psi"], noise_mode="const")
    assert np.abs(image.numpy() - arrays["image_const"]).max() < 1e-4


def test_conversion_is_complete_or_nothing(saved, tmp_path, monkeypatch):
    state = random_state(TINY)
    path = saved(make_pickles.ada_pickle(state, TINY))
    out = tmp_path / "out.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            convert(path, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network.pkl"]
    done = convert(path, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network.pkl", "out.safetensors"]
    assert done.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert done.parameters == sum(value.numel() for value in state.values())
    read = read_checkpoint(out)
    assert read.folded and read.metadata == {"source": "network.pkl", "source_sha256": done.sha256}
    assert same_state(read.state, fold_gains(state, StyleGAN2Config(**TINY)))
    before = out.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert(path, out)
    assert out.read_bytes() == before
    convert(path, out, overwrite=True)
    assert convert(out, tmp_path / "again.safetensors").config == read.config
    assert read_native(tmp_path / "again.safetensors").metadata == read.metadata


@pytest.mark.parametrize(("function", "error", "code", "why"), [
    ("safetensors.torch.save_file",
     SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
     errno.ENOSPC, "No space left on device"),
    ("tempfile.mkstemp", PermissionError(errno.EACCES, "Permission denied", "/folder/.out.safetensors.k7x.tmp"),
     errno.EACCES, "Permission denied")], ids=["full", "unwritable"])
def test_a_file_that_cannot_be_written_is_named(saved, tmp_path, monkeypatch, function, error, code, why):
    def refuse(*arguments, **options):
        raise error

    path, out = saved(make_pickles.ada_pickle(random_state(TINY), TINY)), tmp_path / "out.safetensors"
    monkeypatch.setattr(function, refuse)
    with pytest.raises(OutputError) as caught:
        convert(path, out)
    free = "free some space or " if code == errno.ENOSPC else ""
    assert str(caught.value) == f"cannot write {out}: {why}; {free}choose another folder"
    assert caught.value.errno == code and [p.name for p in tmp_path.iterdir()] == ["network.pkl"]


def test_a_native_file_keeps_extra_metadata_and_checks_shapes(tmp_path):
    config, state = StyleGAN2Config(**TINY).to_dict(), random_state(TINY)
    path = write_native(tmp_path / "net.safetensors", "stylegan2", config, state, {"licence": "Apache-2.0"})
    read = read_native(path)
    assert read.metadata == {"licence": "Apache-2.0"} and read.config == config and same_state(read.state, state)
    state.pop("mapping.w_avg")
    with pytest.raises(CheckpointError, match=r"mapping\.w_avg is missing"):
        write_native(tmp_path / "other.safetensors", "stylegan2", config, state)
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors"):
        write_native(tmp_path / "net.bin", "stylegan2", config, state)
    with pytest.raises(CheckpointError, match="reserved keys config"):
        write_native(tmp_path / "third.safetensors", "stylegan2", config, state, {"config": "{}"})
    with pytest.raises(CheckpointError, match="reserved keys tensors_sha256"):
        write_native(tmp_path / "third.safetensors", "stylegan2", config, state, {"tensors_sha256": "0"})


def test_a_native_file_whose_weights_changed_is_refused_and_one_without_a_digest_is_read(tmp_path):
    config, state = StyleGAN2Config(**TINY).to_dict(), random_state(TINY)
    path = write_native(tmp_path / "net.safetensors", "stylegan2", config, state)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    refused = r"net\.safetensors: its weights are not those that were written .*altered.*convert or download it again"
    with pytest.raises(CheckpointError, match=refused):
        read_checkpoint(path)
    save_file({name: value.half() for name, value in state.items()}, path, metadata)
    with pytest.raises(CheckpointError, match=refused):
        read_checkpoint(path)
    save_file(state, path, metadata)
    assert same_state(read_checkpoint(path).state, state)
    del metadata["tensors_sha256"]
    save_file({name: value.half() for name, value in state.items()}, path, metadata)
    assert read_checkpoint(path).metadata == {}


@pytest.mark.parametrize("damage", ["truncated", "header", "foreign", "version", "config", "missing", "empty"])
def test_a_damaged_native_file_is_a_clear_error(damage, tmp_path):
    config, state = StyleGAN2Config(**TINY).to_dict(), random_state(TINY)
    path = write_native(tmp_path / "net.safetensors", "stylegan2", config, state)
    metadata = {"format": "probes-generator", "version": "1", "family": "stylegan2", "config": json.dumps(config)}
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "header":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        save_file({"weight": torch.ones(2)}, path)
    elif damage == "version":
        save_file(state, path, {**metadata, "version": "99"})
    elif damage == "config":
        save_file(state, path, {**metadata, "config": "{"})
    else:
        state.pop("synthesis.b4.const")
        save_file(state, path, metadata)
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("form", ["ada", "tensorflow"])
def test_a_truncated_pickle_is_a_clear_error(fraction, form, saved):
    data = (make_pickles.ada_pickle if form == "ada" else make_pickles.tensorflow_pickle)(random_state(TINY), TINY)
    path = saved(data[: max(3, int(len(data) * fraction))])
    with pytest.raises(CheckpointError, match="(?s)network.pkl.*download it again") as caught:
        read_checkpoint(path)
    assert not isinstance(caught.value, UnsafePickleError)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pkl", b"", "empty"),
        ("b.pkl", b"<!DOCTYPE html><html>sign in</html>", "web page"),
        ("c.pt", b"PK\x03\x04" + bytes(40), "the .yaml that describes it was not found"),
        ("d.pkl", b"\x80\x04N.", "without a StyleGAN generator"),
        ("e.pkl", b"\x80\x04}.", "without a StyleGAN generator"),
        ("f.bin", b"\x00" * 64, "unknown format"),
    ],
)
def test_other_files_are_told_apart_by_content(name, content, message, saved):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(saved(content, name))


def test_a_configuration_beside_a_file_that_has_its_own_is_refused(saved, tmp_path):
    path = saved(make_pickles.ada_pickle(random_state(TINY), TINY))
    with pytest.raises(CheckpointError, match="config: .* leave config out"):
        read_checkpoint(path, tmp_path / "model.yaml")


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "nothing.pkl")


def test_a_snapshot_without_the_average_is_refused(saved):
    with make_pickles.nvidia_modules():
        snapshot = {"G": make_pickles.persistent_generator(random_state(TINY), TINY), "step": 3}
        path = saved(make_pickles.pickle.dumps(snapshot, protocol=4))
    with pytest.raises(CheckpointError, match=r"no G_ema.*G, step"):
        read_checkpoint(path)


def test_families_and_numbers_beyond_reason_are_clear_errors(tmp_path):
    with pytest.raises(CheckpointError, match="there is no family 'dit'; supported families: stylegan2"):
        write_native(tmp_path / "a.safetensors", "dit", {}, {})
    about = {"format": "probes-generator", "version": "1"}
    for family, config in (
        ("vqgan", make_taming.config("coordinate").to_dict() | {"coord_embed": 10**400}),
        ("stylegan-xl", {"img_resolution": 16, "layers": [],
                         "input": {"channels": 4, "size": [16, 16], "sampling_rate": 10**400, "bandwidth": 2}}),
    ):
        path = tmp_path / f"{family}.safetensors"
        save_file({"a": torch.zeros(1)}, path, {**about, "family": family, "config": json.dumps(config)})
        with pytest.raises(CheckpointError, match=f"{family}.safetensors: its configuration is not"):
            read_native(path)
    save_file({"a": torch.zeros(1)}, path, {**about, "family": "vqgan", "config": "[" * 100_000})
    with pytest.raises(CheckpointError, match="its configuration is not JSON"):
        read_native(path)
