"""StyleGAN3 and StyleGAN-XL from the files they are published in, forged in the true format without NVIDIA's code."""
import json
import math
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from make_pickles import MODULE_SRC, Call, Persistent, nvidia_modules
from safetensors.torch import save_file
from test_stylegan_xl import GOLDENS, golden

import generators
from generators.checkpoints import (
    CheckpointError,
    UnsafePickleError,
    convert,
    native_state,
    read_checkpoint,
    write_native,
)
from generators.stylegan_xl import StyleGANXL, StyleGANXLConfig, StyleGANXLNetwork, fold_gains, schedule
from generators.stylegan_xl._format import expected_shapes
from generators.stylegan_xl._public import PUBLIC

BUFFERS = ("w_avg", "freqs", "phases", "transform", "magnitude_ema", "up_filter", "down_filter")
ARRAYS = ("in_size", "out_size")
NUMPY = {"in_channels": np.int64, "down_factor": np.float64, "is_critically_sampled": np.bool_}
SCALARS = ("in_cutoff", "out_cutoff", "in_half_width", "out_half_width")


def persistent(config: StyleGANXLConfig, state: dict[str, torch.Tensor], xl: bool) -> Persistent:
    """A Generator as `torch_utils.persistence` pickles it. Sizes are numpy arrays, cutoffs numpy numbers, as in real files."""
    interface = {name: getattr(config, name) for name in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")}
    about = {**interface, "num_ws": config.num_ws}
    network = Persistent("SuperresGenerator" if xl else "Generator", **about, _init_args=(), _init_kwargs=dict(interface))
    network.mapping = Persistent("MappingNetwork", **about, num_layers=config.mapping_layers, w_avg_beta=config.w_avg_beta)
    if xl:
        network.mapping.embed = torch.nn.Embedding(*state["mapping.embed.weight"].shape)
    elif config.c_dim:
        network.mapping.embed = dense("linear", 1)
    if xl and config.c_dim:
        network.mapping.embed_proj = dense("lrelu", 1)
    for i in range(config.mapping_layers):
        setattr(network.mapping, f"fc{i}", dense("lrelu", config.mapping_lr_multiplier))
    names = [layer.name for layer in config.layers]
    network.synthesis = Persistent("SynthesisNetwork", **about, layer_names=names, output_scale=config.output_scale,
                                   num_critical=2, margin_size=10, num_fp16_res=4)
    if xl:
        network.synthesis.__dict__["path_stem"] = "training-runs/stem/best_model.pkl"
    network.synthesis.input = Persistent(
        "SynthesisInput", w_dim=config.w_dim, channels=config.input.channels, size=np.array(config.input.size),
        sampling_rate=config.input.sampling_rate, bandwidth=np.float64(config.input.bandwidth))
    network.synthesis.input.affine = dense("linear", 1)
    for geometry in config.to_dict()["layers"]:
        attributes = {key: np.array(value) if key in ARRAYS else np.float64(value) if key in SCALARS else value
                      for key, value in geometry.items() if key not in ("name", "down_radial")}
        attributes.update({key: kind(attributes[key]) for key, kind in NUMPY.items()})
        layer = Persistent("SynthesisLayer", **attributes, w_dim=config.w_dim, magnitude_ema_beta=0.999,
                           tmp_sampling_rate=geometry["in_sampling_rate"] * geometry["up_factor"])
        layer.affine = dense("linear", 1)
        for name in ("up_filter", "down_filter"):
            layer.register_buffer(name, None)
        setattr(network.synthesis, geometry["name"], layer)
    for name, value in {**state, "synthesis.input.transform": torch.eye(3)}.items():
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        if leaf in BUFFERS:
            module.register_buffer(leaf, value)
        else:
            module.register_parameter(leaf, torch.nn.Parameter(value, requires_grad=False))
    return network


def dense(activation: str, multiplier: float) -> Persistent:
    return Persistent("FullyConnectedLayer", activation=activation, weight_gain=np.float64(0.1), bias_gain=multiplier)


def snapshot(config, state, xl, change=lambda network: None) -> bytes:
    """A training snapshot: G_ema has the weights; D is a decoy."""
    with nvidia_modules() as nvidia:
        network = persistent(config, state, xl)
        change(network)
        options = nvidia["EasyDict"](class_name="training.dataset.ImageFolderDataset")
        return pickle.dumps({"D": Persistent("Discriminator", c_dim=0), "G_ema": network, "training_set_kwargs": options},
                            protocol=4)


def stylegan3(radial=False, **options):
    """(configuration, raw state) of a small StyleGAN3-T or -R."""
    kind = dict(conv_kernel=1, use_radial_filters=True) if radial else {}
    entry, layers = schedule(32, 6, channel_base=256, channel_max=12, **kind)
    config = StyleGANXLConfig(32, entry, layers, **{**dict(z_dim=6, w_dim=8, w_avg_beta=0.998), **options})
    own, rng = StyleGANXLNetwork(config, seed=0).state_dict(), torch.Generator().manual_seed(1)
    return config, {name: own[name] if name.endswith("_filter") else 1 + torch.rand(shape, generator=rng)
                    for name, shape in expected_shapes(config.to_dict(), "here").items()}


@pytest.fixture
def saved(tmp_path):
    def save(data: bytes, name: str = "network.pkl"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return save


CASES = {
    "t": ("stylegan3", False, {}),
    "r": ("stylegan3", True, {}),
    "t-conditional": ("stylegan3", False, dict(c_dim=5, embedding="linear")),
    "deep-mapping": ("stylegan3", False, dict(mapping_layers=4, mapping_lr_multiplier=0.1, output_scale=0.5)),
}


@pytest.mark.parametrize("case", CASES)
def test_stylegan3_is_read_as_it_was_written(case, saved):
    family, radial, options = CASES[case]
    config, state = stylegan3(radial, **options)
    read = read_checkpoint(saved(snapshot(config, state, xl=False)))
    assert read.family == family and not read.folded
    assert StyleGANXLConfig.from_dict(read.config) == config
    assert read.state.keys() == state.keys() and all(torch.equal(read.state[name], state[name]) for name in state)
    generator = generators.load(saved(snapshot(config, state, xl=False)), truncation_psi=0.5)
    assert type(generator) is StyleGANXL and generator.family == "stylegan3" and generator.resolution == 32
    network = StyleGANXLNetwork(config)
    network.load_state_dict(fold_gains(state, config))
    source = generator.sample(range(2))
    with torch.no_grad():
        expected = network(source["z"], source.get("c"), truncation_psi=0.5)
        torch.testing.assert_close(generator.forward(generator.prepare(source)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", GOLDENS)
def test_a_grown_stylegan_xl_draws_the_references_pictures(name, saved, tmp_path):
    config, state, spec, arrays = golden(name)
    path = saved(snapshot(config, state, xl=True))
    read = read_checkpoint(path)
    assert read.family == "stylegan-xl" and StyleGANXLConfig.from_dict(read.config) == config
    # The table of classes is in every file, and part of a conditional generator only.
    assert "mapping.embed.weight" in state and ("mapping.embed.weight" in read.state) == (config.c_dim > 0)
    done = convert(path, tmp_path / "native.safetensors")
    for source in (path, tmp_path / "native.safetensors"):
        generator = generators.load(source, truncation_psi=spec["truncation_psi"])
        assert generator.family == done.family == "stylegan-xl" and generator.num_classes == spec["c_dim"]
        code = {"z": torch.from_numpy(arrays["z"])} | ({"c": torch.from_numpy(arrays["c"])} if config.c_dim else {})
        with torch.no_grad():
            image = generator.forward(generator.prepare(code))
        assert np.abs(image.numpy() - arrays["image"]).max() < 1e-5
    native_config, native_weights = native_state(read)
    assert native_weights.keys() == StyleGANXLNetwork(StyleGANXLConfig.from_dict(native_config)).state_dict().keys()


def test_a_grown_generator_may_say_its_stems_resolution(saved):
    config, state, _, _ = golden(GOLDENS[0])
    read = read_checkpoint(saved(snapshot(config, state, True, attribute("", "img_resolution", 16))))
    assert read.config["img_resolution"] == 32
    with pytest.raises(CheckpointError, match="the generator says img_resolution=16, its parts 32"):
        read_checkpoint(saved(snapshot(*stylegan3(), False, attribute("", "img_resolution", 16))))


def test_layers_may_come_in_another_order_than_their_modules(saved):
    config, state = stylegan3()

    def reversed_modules(network):
        modules = network.synthesis._modules
        for name in list(modules)[::-1]:
            modules[name] = modules.pop(name)

    read = read_checkpoint(saved(snapshot(config, state, False, reversed_modules)))
    assert StyleGANXLConfig.from_dict(read.config) == config
    unnamed = saved(snapshot(config, state, False, lambda network: network.synthesis.__dict__.pop("layer_names")))
    assert StyleGANXLConfig.from_dict(read_checkpoint(unnamed).config) == config


def attribute(path, name, value):
    return lambda network: network.get_submodule(path).__dict__.update({name: value})


def without(path, name):
    return lambda network: network.get_submodule(path).__dict__.pop(name)


def weight(path, name, value):
    def change(network):
        module = network.get_submodule(path)
        (module._buffers if name in module._buffers else module._parameters)[name] = value

    return change


def inflated(network):
    """A canvas of ten million samples a side that fits together in itself."""
    huge = 10_000_000
    network.synthesis.input.__dict__["size"] = np.array([huge, huge])
    for layer in list(network.synthesis.children())[1:]:
        grown = {"in_size": np.array([huge, huge]), "out_size": np.array([huge, huge])}
        layer.__dict__.update(grown)
        side = [(huge - 1) * layer.down_factor + 1 - (huge + layer.conv_kernel - 1) * layer.up_factor
                + layer.up_taps + layer.down_taps - 2, 0]
        layer.__dict__["padding"] = side * 2
    network.__dict__["img_resolution"] = huge


L1, LAST = "synthesis.L1_36_12", "synthesis.L6_32_3"
BROKEN = {
    "no-geometry": (without(L1, "padding"), r"L1_36_12 has no padding"),
    "nonsense-padding": (attribute(L1, "padding", [9, 8]), r"L1_36_12.padding=\[9, 8\]: expected 4 whole numbers"),
    "other-padding": (attribute(L1, "padding", [9, 7, 9, 7]), "L1_36_12: its kernel, filters and padding make"),
    "text-for-a-number": (attribute(L1, "up_factor", "two"), "up_factor='two': expected a whole number"),
    "endless-cutoff": (attribute(L1, "in_cutoff", float("inf")), "in_cutoff=inf: expected a positive number"),
    "no-cutoff": (attribute(L1, "out_cutoff", float("nan")), "out_cutoff=nan: expected a positive number"),
    "negative-size": (attribute(L1, "in_size", np.array([-36, -36])), "in_size=-36: expected a whole number >= 1"),
    "other-size": (attribute("synthesis.input", "size", np.array([40, 40])), r"the input gives .*\(40, 40\)"),
    "odd-flag": (attribute(L1, "is_critically_sampled", "yes"), "is_critically_sampled='yes': expected True or False"),
    "huge": (inflated, "beyond any StyleGAN3 or StyleGAN-XL known: size 10000000 > 8192"),
    "many-taps": (attribute(L1, "up_taps", 10**9), "kernel, filters and padding make"),
    "wide": (attribute(L1, "out_channels", 10**9), r"but L1_36_12 gives 1000000000 of"),
    "wrong-weight": (weight(L1, "weight", torch.nn.Parameter(torch.ones(12, 12, 1, 1))), "L1_36_12.weight is .*expected"),
    "wrong-filter": (weight(L1, "up_filter", torch.ones(10)), r"L1_36_12.up_filter is \[10\], expected \[12\]"),
    "square-up-filter": (weight(L1, "up_filter", torch.ones(12, 12)), r"up_filter is \[12, 12\], expected \[12\]"),
    "no-filter": (weight(L1, "up_filter", None), "L1_36_12.up_filter is missing"),
    "spare-filter": (weight(LAST, "up_filter", torch.ones(3)), "L6_32_3.up_filter is not known"),
    "magnitudes": (weight(L1, "magnitude_ema", torch.ones(12)), r"magnitude_ema is \[12\], expected \[\]"),
    "no-layer": (lambda n: n.synthesis._modules.pop("L1_36_12"), "layer_names and its layers differ, first in L1_36_12"),
    "unnamed-layer": (lambda n: n.synthesis.layer_names.remove("L1_36_12"), "differ, first in L1_36_12"),
    "no-layers": (lambda n: n.synthesis.__dict__.update(
        layer_names=[], _modules={"input": n.synthesis.input}), "its synthesis network has no layers"),
    "names-of-nothing": (attribute("synthesis", "layer_names", [None, 3]), "layer_names and its layers differ"),
    "moved-picture": (weight("synthesis.input", "transform", torch.eye(3) * 2), "its picture was moved by hand"),
    "no-input": (lambda n: n.synthesis._modules.pop("input"), "synthesis.input.affine.weight with 2 dimensions; it is missing"),
    "no-mapping": (lambda n: n.mapping._modules.pop("fc0"), "mapping.fc0.weight with 2 dimensions; it is missing"),
    "other-latent": (attribute("", "z_dim", 7), "the generator says z_dim=7, its parts 6"),
    "classes-without-embedding": (attribute("", "c_dim", 4), "mapping.embed.weight .*missing"),
    "text-for-classes": (attribute("", "c_dim", "many"), "mapping.embed.weight with 2 dimensions; it is missing"),
    "other-activation": (attribute("mapping.fc1", "activation", "relu"), "mapping.fc1 has the activation 'relu'"),
    "two-multipliers": (attribute("mapping.fc1", "bias_gain", 0.5), "its layers differ in bias_gain"),
    "odd-multiplier": (attribute("mapping.fc0", "bias_gain", "high"), "mapping.fc0.bias_gain is 'high', expected a number"),
    "zero-scale": (attribute("synthesis", "output_scale", 0), "output_scale=0.0: expected a positive number"),
    "never-forgets": (attribute("mapping", "w_avg_beta", 7.0), "w_avg_beta=7.0: expected a decay"),
    "two-to-rgb": (attribute("synthesis.L5_32_8", "is_torgb", True), "L5_32_8|one ToRGB layer"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_generator_is_a_clear_error(case, saved):
    change, message = BROKEN[case]
    path = saved(snapshot(*stylegan3(), False, change))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value) and not isinstance(caught.value, UnsafePickleError)


@pytest.mark.parametrize(("change", "message"), [
    (lambda n: n.mapping._modules.pop("embed_proj"), "mapping.embed_proj.weight with 2 dimensions; it is missing"),
    (weight("mapping", "w_avg", torch.zeros(24)), r"mapping.w_avg is \[24\], expected \[1000, 24\]"),
    (weight("mapping.embed", "weight", torch.nn.Parameter(torch.zeros(3, 320))), "embed_rows=3.*each of 1000 classes"),
    (attribute("mapping.embed_proj", "activation", "linear"), "embed_proj has the activation 'linear'; 'lrelu' is supported"),
])
def test_a_broken_class_embedding_is_a_clear_error(change, message, saved):
    config, state, _, _ = golden(GOLDENS[1])
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(saved(snapshot(config, state, True, change)))


@pytest.mark.parametrize("place", ["", "synthesis.input", L1, "mapping"])
def test_nothing_in_a_file_is_executed(place, saved, tmp_path):
    canary = tmp_path / "canary"
    bomb = Call(os.system, f"{sys.executable} -c \"open(r'{canary}', 'w')\"")
    for name in ("size", "padding", "in_size", "w_avg_beta"):
        path = saved(snapshot(*stylegan3(), False, attribute(place, name, bomb)))
        with pytest.raises(UnsafePickleError, match="system"):
            read_checkpoint(path)
    assert not canary.exists() and "was executed" in MODULE_SRC


def test_a_table_of_classes_that_is_another_object_is_refused(saved, tmp_path):
    def change(network):
        network.mapping.embed = torch.nn.Bilinear(2, 2, 2)

    config, state, _, _ = golden(GOLDENS[0])
    with pytest.raises(UnsafePickleError, match="Bilinear"):
        read_checkpoint(saved(snapshot(config, state, True, change)))


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_a_clear_error(fraction, saved):
    data = snapshot(*stylegan3(), False)
    with pytest.raises(CheckpointError, match="(?s)network.pkl.*download it again"):
        read_checkpoint(saved(data[: int(len(data) * fraction)]))


def test_a_native_file_is_checked(tmp_path):
    config, state = stylegan3()
    state = fold_gains(state, config)
    path = write_native(tmp_path / "net.safetensors", "stylegan3", config.to_dict(), state)
    assert read_checkpoint(path).folded and generators.load(path).family == "stylegan3"
    header = {"format": "probes-generator", "version": "1", "family": "stylegan3"}
    for change, message in [
        (dict(z_dim=5), r"mapping.fc0.weight is \[8, 6\], expected \[8, 5\]"),
        (dict(layers=[]), "expected one ToRGB layer"),
        (dict(layers=3), "layers: expected a list, got int"),
        (dict(layers=config.to_dict()["layers"][:1] * 2 + config.to_dict()["layers"]), "L0_36_12 appears twice"),
        (dict(mapping_layers=10**6), "mapping layers 1000000 > 64"),
        (dict(noise=True), "unknown option 'noise'"),
    ]:
        save_file(state, path, {**header, "config": json.dumps({**config.to_dict(), **change})})
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path)
    state.pop("synthesis.input.phases")
    with pytest.raises(CheckpointError, match="synthesis.input.phases is missing"):
        write_native(tmp_path / "other.safetensors", "stylegan3", config.to_dict(), state)


def test_shapes_are_the_networks_own():
    for config in (golden(GOLDENS[0])[0], golden(GOLDENS[1])[0], stylegan3(True, c_dim=2, embedding="linear")[0]):
        own = {name: tuple(value.shape) for name, value in StyleGANXLNetwork(config).state_dict().items()}
        assert expected_shapes(config.to_dict(), "here") == own


def test_published_checkpoints_are_in_the_catalog():
    assert len(PUBLIC) == 26 and all(generators.catalog()[name].source == entry.url for name, entry in PUBLIC.items())
    assert len({entry.url for entry in PUBLIC.values()}) == len(PUBLIC)
    entry = PUBLIC["stylegan-xl-imagenet-256"]
    assert (entry.url.rpartition("/")[2], entry.resolution, entry.fid) == ("imagenet256.pkl", 256, 2.26)
    assert PUBLIC["stylegan3-r-afhqv2-512"].url.endswith("/stylegan3-r-afhqv2-512x512.pkl")
    assert math.isclose(sum(entry.fid or 0 for entry in PUBLIC.values()), 93.87, abs_tol=0.02)
