"""Reading taming-transformers' checkpoints: every layout of files, every kind of model, and what is wrong with a file."""
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import make_taming
import numpy as np
import pytest
import torch
from make_pickles import nvidia_modules
from make_taming import CONDITIONS, config, description, weights, write_checkpoint, write_run, write_yaml

from generators import checkpoints
from generators.checkpoints import CheckpointError, UnsafePickleError
from generators.checkpoints._taming import read_taming
from generators.vqgan import VQGANConfig, VQGANNetwork, build, load_network
from generators.vqgan._format import native


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "logs" / "2021-04-23_ffhq", config())


def last(run):
    return run / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("conditioning", CONDITIONS)
def test_a_run_becomes_a_generator(conditioning, tmp_path):
    expected = config(conditioning)
    checkpoint = read_taming(write_run(tmp_path, expected))
    assert checkpoint.family == "vqgan" and VQGANConfig.from_dict(checkpoint.config) == expected
    assert checkpoint.sha256 == checkpoints.file_sha256(last(tmp_path)) and not checkpoint.folded
    assert not any("loss" in name or name.endswith("mask") for name in checkpoint.state)
    generator = build("faces", checkpoint, top_k=9)
    assert generator.num_classes == expected.num_classes and generator.options["top_k"] == 9
    state = generator.prepare(generator.sample([0, 1]))
    with torch.no_grad():
        assert generator.forward(state).shape == (2, 3, 16, 16)
    theirs = weights(expected)
    attention = generator.network.get_submodule("first_stage.decoder.up_blocks.0.attentions.1.to_out.0").weight
    assert torch.equal(attention, theirs["first_stage_model.decoder.up.1.attn.1.proj_out.weight"][..., 0, 0])
    joint = generator.network.transformer.transformer.h[1].attn.c_attn.weight
    assert torch.equal(joint[:, 16:32].t(), theirs["transformer.blocks.1.attn.key.weight"])


def test_converts_to_a_native_file_that_draws_the_same(run, tmp_path):
    checkpoints.convert(run, tmp_path / "a.safetensors")
    theirs, ours = build("a", read_taming(run)), build("b", checkpoints.read_native(tmp_path / "a.safetensors"))
    assert theirs.fingerprint == ours.fingerprint
    source = theirs.sample(range(3))
    assert torch.equal(theirs.indices(source), ours.indices(source))


def test_reads_by_the_common_door(run):
    for path in (run, last(run)):
        assert checkpoints.read_checkpoint(path).family == "vqgan"


@pytest.mark.parametrize("name", ["last.yaml", "2021-project.yaml", "model.yaml", "config.yaml", "configs/model.yaml",
                                  "../configs/a-project.yaml"])
def test_finds_the_yaml(name, run, tmp_path):
    path = tmp_path / "x" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    shutil.copy(last(run), path)
    with pytest.raises(CheckpointError, match=r"last\.yaml;.*project\.yaml;.*model\.yaml.*pass it as config="):
        read_taming(path)
    write_yaml(path.parent / name, description(config()))
    assert read_taming(path).config == config().to_dict()


def test_an_explicit_yaml_wins_and_must_exist(run, tmp_path):
    other = write_yaml(tmp_path / "other.yaml", description(config(sos_token=5)))
    assert read_taming(run, other).config["sos_token"] == 5
    with pytest.raises(CheckpointError, match="config: .*missing.yaml: no such file"):
        read_taming(run, tmp_path / "missing.yaml")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        read_taming(tmp_path / "nowhere.ckpt", other)


def test_a_resumed_run_merges_its_configurations_in_order(run):
    resumed = {"model": {"params": {"sos_token": 7}}}
    write_yaml(run / "configs" / "2022-01-01T00-00-00-project.yaml", resumed)
    assert read_taming(run).config["sos_token"] == 7


def test_of_several_configurations_beside_a_file_none_is_guessed(run, tmp_path):
    """As in a folder of downloads: those of other runs may fit the weights and draw something else."""
    path = Path(shutil.copy(last(run), tmp_path / "last.ckpt"))
    write_yaml(tmp_path / "2020-11-13T21-41-45-project.yaml", description(config("coordinate")))
    write_yaml(tmp_path / "2021-04-23T18-19-01-project.yaml", description(config()))
    with pytest.raises(CheckpointError, match="several .*: 2020-11-13T21-41-45-project.yaml, 2021.*; pass the one .*config="):
        read_taming(path)
    write_yaml(tmp_path / "last.yaml", description(config()))
    assert read_taming(path).config == config().to_dict()


def test_folders_with_several_checkpoints_are_not_guessed(run):
    last(run).rename(run / "checkpoints" / "epoch=000003.ckpt")
    assert read_taming(run).config == config().to_dict()
    shutil.copy(run / "checkpoints" / "epoch=000003.ckpt", run / "checkpoints" / "epoch=000004.ckpt")
    with pytest.raises(CheckpointError, match="2 of them: epoch=000003.ckpt, epoch=000004.ckpt"):
        read_taming(run)
    with pytest.raises(CheckpointError, match="there is none"):
        read_taming(run / "configs")


@pytest.mark.parametrize("gpt", [None, make_taming.GPT])
def test_gumbel_first_stages(gpt, tmp_path):
    expected = config(quantizer="gumbel", embed_dim=8, gpt=gpt)
    checkpoint = read_taming(write_run(tmp_path, expected))
    assert VQGANConfig.from_dict(dict(checkpoint.config, sos_token=3)) == expected
    network = VQGANNetwork(expected)
    network.load_state_dict(native(checkpoint.config, checkpoint.state)[1])
    assert torch.equal(network.codebook, weights(expected)["first_stage_model.quantize.embed.weight"[18 * (gpt is None):]])
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    z = network.first_stage.encode(image).latents
    logits = torch.einsum("nchw,kc->nkhw", z, network.first_stage.quantize.proj.weight[..., 0, 0])
    logits = logits + network.first_stage.quantize.proj.bias[:, None, None]
    assert torch.equal(network.encode(image), logits.argmax(1))


def test_weights_without_encoder_or_lightning_around_them(tmp_path):
    state = {n: v.half() for n, v in weights(config()).items() if not re.search(r"\.encoder\.|\.quant_conv\.", n)}
    torch.save(state, tmp_path / "slim.pt")
    write_yaml(tmp_path / "slim.yaml", description(config()))
    checkpoint = read_taming(tmp_path / "slim.pt")
    assert checkpoint.config == config(encoder=False).to_dict()
    assert build("slim", checkpoint).network.codebook.dtype == torch.float32
    torch.save({"state_dict": state}, tmp_path / "slim.pt", _use_new_zipfile_serialization=False)     # before torch 1.6
    for given in (None, tmp_path / "slim.yaml"):
        assert checkpoints.read_checkpoint(tmp_path / "slim.pt", given).config == checkpoint.config


def test_first_stage_in_its_own_file(run, tmp_path):
    everything = weights(config())
    halves = [{n: v for n, v in everything.items() if n.startswith(p)} for p in ("transformer.", "first_stage_model.")]
    write_checkpoint(last(run), halves[0])
    yaml = description(config())
    stage = yaml["model"]["params"]["first_stage_config"]["params"]
    with pytest.raises(CheckpointError, match="transformer only; the first stage is missing.*nowhere"):
        read_taming(run)
    for ckpt_path, place in (("stage/last.ckpt", run / "stage"), ("logs/vqgan/last.ckpt", tmp_path / "logs" / "vqgan")):
        stage["ckpt_path"] = ckpt_path
        write_yaml(run / "configs" / "2021-04-23T18-11-19-project.yaml", yaml)
        with pytest.raises(CheckpointError, match=f"the first stage is missing.*{ckpt_path}.*no file within"):
            read_taming(run)
        write_checkpoint(place / "last.ckpt", {n.removeprefix("first_stage_model."): v for n, v in halves[1].items()})
        checkpoint = read_taming(run)
        assert checkpoint.config == config().to_dict() and build("a", checkpoint).network.config == config()
    secret = write_checkpoint(tmp_path / "elsewhere" / "last.ckpt", halves[1])
    for ckpt_path in (str(secret), "../../elsewhere/last.ckpt"):
        stage["ckpt_path"] = ckpt_path
        write_yaml(run / "configs" / "2021-04-23T18-11-19-project.yaml", yaml)
        with pytest.raises(CheckpointError, match="the first stage is missing"):
            read_taming(run)


def test_missing_halves_and_wrong_yamls_are_told_apart(run, tmp_path):
    alone = write_run(tmp_path / "stage", config(gpt=None))
    whole = run / "configs" / "2021-04-23T18-11-19-project.yaml"
    part = tmp_path / "stage" / "configs" / "2021-04-23T18-11-19-project.yaml"
    with pytest.raises(CheckpointError, match="a VQGAN's first stage; the transformer half is missing.*VQGANNetwork"):
        build("stage", read_taming(alone))
    stage_config, state = checkpoints.native_state(read_taming(alone))
    network = load_network(VQGANConfig.from_dict(stage_config), state)
    with torch.no_grad():
        assert network.decode(network.lookup(network.encode(torch.zeros(1, 3, 32, 16)))).shape == (1, 3, 32, 16)
    with pytest.raises(CheckpointError, match="first stage only, but .*describes a transformer"):
        read_taming(alone, whole)
    with pytest.raises(CheckpointError, match="holds a transformer .*describes a first stage alone"):
        read_taming(run, part)


@pytest.mark.parametrize("change, message", [
    (dict(n_embed=21), r"quantize.embedding.weight is \[20, 6\], expected \[21, 6\]\. "),
    (dict(num_res_blocks=2), r"encoder.down.0.block.1.norm1.weight is missing;.* and \d+ more"),
    (dict(attn_resolutions=[]), r"encoder.down.1.attn.0.norm.weight \[64\] is not known"),
    (dict(gpt=dict(make_taming.GPT, n_layer=1)), r"transformer.blocks.1.ln1.weight \[16\] is not known"),
    (dict(gpt=dict(make_taming.GPT, block_size=100)), r"pos_emb is \[1, 128, 16\], expected \[1, 100, 16\]"),
])  # fmt: skip
def test_a_yaml_that_does_not_match_names_the_first_entries(change, message, run, tmp_path):
    other = write_yaml(tmp_path / "other.yaml", description(config(**change)))
    with pytest.raises(CheckpointError, match=f"last.ckpt: the weights do not fit .*other.yaml: .*{message}"):
        read_taming(run, other)


def edited(**params):
    content = description(config())
    content["model"]["params"].update(params)
    return content


def stage_edited(**dd):
    content = description(config())
    content["model"]["params"]["first_stage_config"]["params"]["ddconfig"].update(dd)
    return content


@pytest.mark.parametrize("content, message", [
    ([1, 2], "expected a mapping with `model`, got a list"),
    ({"data": {}}, "has no `model`"),
    ({"model": {"target": "taming.models.dummy.Other"}}, "model.target is 'taming.models.dummy.Other'"),
    (edited(transformer_config={"target": "taming.modules.transformer.mingpt.CodeGPT"}), "transformer is a CodeGPT"),
    (edited(permuter_config={"target": "taming.modules.transformer.permuter.ZCurve"}), "in the order ZCurve"),
    (edited(cond_stage_config={"target": "taming.models.vqgan.VQModel"}, cond_stage_key="segmentation"),
     "a condition \\(segmentation, by a VQModel\\)"),
    (edited(cond_stage_config="__is_first_stage__"), "its own first stage"),
    (edited(first_stage_config={"params": {}}), "first_stage_config has no `target`"),
    (stage_edited(double_z=True), "double_z"),
    (stage_edited(ch_mult=[1, "2"]), "not a VQGAN's: ch_mult='2'"),
    (stage_edited(ch=10**6), "beyond any VQGAN known"),
    (stage_edited(resolution="${oc.env:HOME}"), r"`\$\{oc.env:HOME\}` cannot be resolved"),
    (stage_edited(resolution="${model.params.first_stage_config.params.ddconfig.resolution}"), "in a circle"),
])  # fmt: skip
def test_yamls_of_other_models_are_refused(content, message, run, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        read_taming(run, write_yaml(tmp_path / "other.yaml", content))


def test_yamls_are_data(run, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"model: !!python/object/apply:os.system ['touch {tmp_path}/owned']")
    with pytest.raises(CheckpointError, match="not a YAML file of plain values"):
        read_taming(run, bad)
    bad.write_text("model: [")
    with pytest.raises(CheckpointError, match="not a YAML file of plain values"):
        read_taming(run, bad)
    assert not (tmp_path / "owned").exists()
    content = {"side": 16, **stage_edited(resolution="${side}")}
    assert read_taming(run, write_yaml(bad, content)).config["resolution"] == 16


def test_yamls_do_not_unfold_without_end(run, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 5)]
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text("\n".join([*lines, "model: {target: VQModel, params: {remap: *a4}}"]))
    with pytest.raises(CheckpointError, match="bomb.yaml: .*more, or nested deeper"):
        read_taming(run, bomb)
    for name in ("2021-a-project.yaml", "2021-b-project.yaml"):
        (run / "configs" / name).write_text("model: &m {target: VQModel, params: *m}")
    with pytest.raises(CheckpointError, match="project.yaml: .*in a circle"):
        read_taming(run)


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Stranger:
    pass


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_pickles_are_refused_and_nothing_runs(zipped, run, tmp_path):
    for place in ("callbacks", "state_dict", "hyper_parameters"):
        for guest in (Hostile(tmp_path / "owned"), Stranger()):
            torch.save({"state_dict": weights(config()), place: {"a": guest}}, last(run),
                       _use_new_zipfile_serialization=zipped)
            with pytest.raises(UnsafePickleError, match=r"asks for the global `.*(system|Stranger)`.*nothing of it was run"):
                read_taming(run)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
                                  "pytorch_lightning.utilities.parsing.AttributeDict", "omegaconf.dictconfig.DictConfig"])
def test_what_lightning_mentions_becomes_inert(name, run):
    with make_taming.foreign(name) as kind:
        guest = kind()
        guest.__dict__.update(_content={"best": 1}, kind=dict)
        torch.save({"state_dict": weights(config()), "hyper_parameters": {"a": guest, kind: np.float64(1.5)}}, last(run))
    assert read_taming(run).config == config().to_dict()


def test_damaged_and_foreign_files_are_named(run, tmp_path):
    data, yaml = last(run).read_bytes(), next((run / "configs").iterdir())
    path = tmp_path / "x.ckpt"
    for content, message in [(data[: len(data) // 2], "truncated"), (data[:-3000], "truncated"), (b"", "empty"),
                             (b"<html>not found</html>", "web page"), (b"GIF89a", "unknown format")]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"x.ckpt is .*{message}"):
            read_taming(path, yaml)
    with nvidia_modules() as kinds:
        import pickle
        path.write_bytes(pickle.dumps({"G_ema": kinds["EasyDict"]()}, protocol=4))
    with pytest.raises(CheckpointError, match="a pickle as StyleGAN's are.*without a configuration"):
        read_taming(path, yaml)
    stylegan = {"synthesis.b4.const": torch.zeros(4, 4, 4), "mapping.fc0.weight": torch.zeros(4, 4)}
    write_checkpoint(path, stylegan)
    with pytest.raises(CheckpointError, match="holds no VQGAN.*synthesis.b4.const"):
        read_taming(path, yaml)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="no `state_dict`"):
        read_taming(path, yaml)


def test_compressed_archives_are_refused_before_they_unfold(run):
    with zipfile.ZipFile(last(run)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(last(run), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match="data.pkl is compressed, which torch.save never does"):
        read_taming(run)


def test_tensors_hold_what_they_claim_and_are_numbers(run):
    state = weights(config())
    name = "transformer.head.weight"
    write_checkpoint(last(run), {**state, name: torch.zeros(1, 1).expand(24, 16)})
    with pytest.raises(CheckpointError, match="its tensors claim"):
        read_taming(run)
    write_checkpoint(last(run), {**state, name: state[name].long()})
    with pytest.raises(CheckpointError, match=f"{name} is a torch.int64 tensor"):
        read_taming(run)


ONLY_CODES = dict(make_taming.GPT, vocab_size=20)      # the reference may draw tokens that are no codes, and then cannot decode
PARITY = {
    "none": config(gpt=ONLY_CODES),
    "class": config("class", gpt=ONLY_CODES, ch_mult=[1, 2, 2], attn_resolutions=[16, 4]),
    "coordinate": config("coordinate", gpt=ONLY_CODES, coord_embed=19, attn_resolutions=[], num_res_blocks=2),
    "gumbel": config(gpt=ONLY_CODES, quantizer="gumbel", embed_dim=8, attn_resolutions=[8, 16]),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """{case: {output: array}} of the published package, run in a process of its own with stand-ins for what it imports."""
    folder = tmp_path_factory.mktemp("taming")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"]
    installed = subprocess.run([*pip, str(folder / "site"), "taming-transformers-rom1504==0.0.6"], capture_output=True,
                               text=True)
    if installed.returncode:
        pytest.skip(f"pip cannot install taming-transformers-rom1504==0.0.6: {installed.stderr.strip()[-200:]}")
    for case, expected in PARITY.items():
        write_run(folder / case, expected)
    subprocess.run([sys.executable, str(Path(__file__).parent / "run_taming.py"), str(folder / "site"),
                    *(str(folder / case) for case in PARITY)], check=True, timeout=300)
    return {case: (folder / case, dict(np.load(folder / case / "outputs.npz"))) for case in PARITY}


@pytest.mark.slow
@pytest.mark.parametrize("case", PARITY)
def test_the_published_package_agrees(case, reference):
    folder, theirs = reference[case]
    generator = build(case, read_taming(folder), top_k=1)
    network = generator.network
    with torch.no_grad():
        assert np.array_equal(network.encode(torch.from_numpy(theirs["image"])).flatten(1), theirs["indices"])
        pictures = network.decode(network.lookup(torch.from_numpy(theirs["tokens"])))
        assert np.abs(pictures.numpy() - theirs["pictures"]).max() < 1e-4 < theirs["pictures"].std()
        logits = network.logits(torch.from_numpy(theirs["sequence"]))
        assert np.abs(logits.numpy() - theirs["logits"]).max() < 1e-4 < theirs["logits"].std()
    source = generator.sample([0, 1], [1, 4] if case == "class" else None)
    assert np.array_equal(generator.prefix(source), theirs["condition"])
    assert np.array_equal(generator.indices(source).flatten(1), theirs["greedy"])
    assert len(np.unique(theirs["greedy"])) > 1
