"""What a teacher's files may say and do: what is needed, what is refused, what identifies labels, and under which name."""
import hashlib
import json
import os
import shutil
from types import SimpleNamespace

import make_teachers
import pytest
import torch

from generators._download import DownloadError, OfflineError
from generators.checkpoints import CheckpointError
from probes.teachers import _digest, get_teacher
from probes.teachers._preparation import Preparation
from probes.teachers._transformers_depth import TransformersDepthTeacher
from probes.teachers._zoedepth import ZoeDepthTeacher


def images(n=1, height=48, width=64, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_teachers.depth_anything(tmp_path_factory.mktemp("files") / "original")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copy")


def change(folder, name="config.json", **fields):
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return folder


# What is needed --------------------------------------------------------------------------------------------------------------

def test_a_folder_without_its_preprocessing_is_no_teacher(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="has no preprocessor_config.json; copy what is missing there from the rep"):
        TransformersDepthTeacher(folder)


class Hub:
    """Stands for huggingface_hub: one repository, and a cache that holds part of it."""

    def __init__(self, monkeypatch, cache, source, left_out=()):
        import huggingface_hub

        self.cache, self.source, self.asked, self.online = cache, source, [], True
        self.names = [name for name in os.listdir(source) if name not in left_out]
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot)
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda api, repo, revision=None: self.list())

    def list(self):
        if not self.online:
            raise ConnectionError("no route to host")
        return self.names

    def snapshot(self, repo, revision=None, allow_patterns=None, local_files_only=False):
        if not local_files_only:
            self.asked.append(sorted(allow_patterns))
            self.cache.mkdir(exist_ok=True)
            for name in allow_patterns:
                shutil.copy(self.source / name, self.cache / name)
        elif not self.cache.is_dir():
            from huggingface_hub.errors import LocalEntryNotFoundError

            raise LocalEntryNotFoundError("not in the cache")
        return str(self.cache)


def test_the_preprocessing_is_fetched_where_the_cache_lacks_it(original, tmp_path, monkeypatch):
    hub = Hub(monkeypatch, tmp_path / "cached", original)
    hub.cache.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(original / name, hub.cache / name)
    hub.online = False
    with pytest.raises(OfflineError, match="(?s)no route to host.*preprocessor_config.json"):
        TransformersDepthTeacher("someone/depth")
    hub.online = True
    assert TransformersDepthTeacher("someone/depth").fingerprint == TransformersDepthTeacher(original).fingerprint
    assert hub.asked == [["config.json", "model.safetensors", "preprocessor_config.json"]]
    hub.online = False
    assert TransformersDepthTeacher("someone/depth").preparation.size == (56, 56)


def test_what_the_hub_may_answer(original, tmp_path, monkeypatch):
    from huggingface_hub.errors import RepositoryNotFoundError

    hub = Hub(monkeypatch, tmp_path / "cached", original, ["preprocessor_config.json"])
    with pytest.raises(DownloadError, match="someone/depth has no preprocessor_config.json: it is no network of the kind"):
        TransformersDepthTeacher("someone/depth")

    def absent():
        raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(hub, "list", absent)
    with pytest.raises(DownloadError, match="no such model, or it is private.*given as transformers:FOLDER"):
        TransformersDepthTeacher("someone/depth")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="teacher: 'some--one/depth' is no name on the hub"):
        TransformersDepthTeacher("some--one/depth")


def test_shards_are_those_of_the_index(folder):
    from safetensors.torch import load_file, save_file

    whole = TransformersDepthTeacher(folder).label(images(), "depth")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-{i:05}-of-00002.safetensors" for i in (1, 2)]
    index = {key: names[i % 2] for i, key in enumerate(sorted(state))}
    for name in names:
        save_file({key: state[key] for key in state if index[key] == name}, folder / name, metadata=dict(format="pt"))
    (folder / "model.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=index)))
    assert torch.equal(TransformersDepthTeacher(folder).label(images(), "depth"), whole)
    (folder / names[1]).rename(folder / "elsewhere.safetensors")
    index = {key: name.replace(names[1], "elsewhere.safetensors") for key, name in index.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=index)))
    with pytest.raises(CheckpointError, match="lists elsewhere.safetensors, which is not there or is no part"):
        TransformersDepthTeacher(folder).label(images(), "depth")


# What has no part in labels --------------------------------------------------------------------------------------------------

def test_an_adapter_beside_the_weights_changes_nothing(folder):
    """transformers would put it on: other labels under the same fingerprint."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForDepthEstimation

    before = TransformersDepthTeacher(folder)
    wanted = before.label(images(), "depth")
    model = AutoModelForDepthEstimation.from_pretrained(folder)
    made = get_peft_model(model, LoraConfig(r=2, lora_alpha=64, target_modules=["fc1", "fc2"], init_lora_weights=False))
    made.save_pretrained(folder)
    assert (folder / "adapter_model.safetensors").is_file()
    after = TransformersDepthTeacher(folder)
    assert torch.equal(after.label(images(), "depth"), wanted) and after.fingerprint == before.fingerprint


def test_a_configuration_names_nothing_to_run(folder, monkeypatch):
    """Attention to be fetched, at the top and in a part; code beside the weights; weights elsewhere."""
    wanted = TransformersDepthTeacher(folder).label(images(), "depth")
    kernel = dict(attn_implementation="someone/kernel", _attn_implementation="someone/kernel",
                  _attn_implementation_internal="someone/kernel")
    config = json.loads((folder / "config.json").read_text())
    change(folder, **kernel, auto_map=dict(AutoConfig="mine.Config"), transformers_weights="other.safetensors",
           backbone_config={**config["backbone_config"], **kernel}, use_pretrained_backbone=True)
    teacher = TransformersDepthTeacher(folder)
    assert torch.equal(teacher.label(images(), "depth"), wanted)
    for module in teacher.network().modules():
        if hasattr(module, "config"):
            assert module.config._attn_implementation in ("sdpa", "eager", None)
    deep = []
    for _ in range(20):
        deep = [deep]
    for fields, told in ((dict(quantization_config=dict(quant_method="bitsandbytes")), "its weights are quantised"),
                         (dict(backbone="someone/vit", backbone_config=None), "backbone is named, 'someone/vit', and not"),
                         (dict(more=deep), "nested more than 8 levels")):
        with pytest.raises(CheckpointError, match=f"config.json.*{told}"):
            (folder / "config.json").write_text(json.dumps({**config, **fields}))
            TransformersDepthTeacher(folder)


# What identifies labels ------------------------------------------------------------------------------------------------------

def test_a_blobs_name_is_compared_and_never_believed(tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    name = hashlib.sha256(b"weights").hexdigest()
    (blobs / name).write_bytes(b"weights")
    (tmp_path / "model.safetensors").symlink_to(blobs / name)
    assert _digest.digest(tmp_path / "model.safetensors") == name
    (blobs / ("ab" * 32)).write_bytes(b"weights")
    with pytest.raises(CheckpointError, match=f"its content has the sha256 {name}, its name there is abab.*delete .*call"):
        _digest.digest(blobs / ("ab" * 32))


def test_large_files_are_read_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setenv("PROBES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_digest, "file_sha256", lambda path: read.append(path) or hashlib.sha256(path.read_bytes()).hexdigest())
    file = tmp_path / "model.safetensors"
    for content in (bytes(_digest.KEPT), bytes(_digest.KEPT - 1) + b"1"):           # of one size
        file.write_bytes(content)
        for _ in range(2):
            _digest._digest.cache_clear()                                           # as another process would start
            assert _digest.digest(file) == hashlib.sha256(content).hexdigest()
    assert len(read) == 2
    for note in (tmp_path / "cache" / "digests").iterdir():
        note.write_text("damaged")
    _digest._digest.cache_clear()
    assert _digest.digest(file) == hashlib.sha256(content).hexdigest() and len(read) == 3


def test_names_are_good_in_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = get_teacher("transformers:copy?resolution=112")
    assert told.name == f"transformers:{folder}?resolution=112" and TransformersDepthTeacher("copy").name.endswith(str(folder))
    monkeypatch.chdir(tmp_path.parent)
    assert get_teacher(told.name).fingerprint == told.fingerprint


# What is refused -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("field, value", [
    ("size", dict(height="x", width=4)), ("size", dict(height=384)), ("size", 10**6), ("size", [1, 2, 3]), ("size", 0),
    ("size", True), ("image_mean", [0.5, 0.5]), ("image_mean", "grey"), ("image_mean", [0.5, 0.5, float("nan")]),
    ("image_std", [0, 0, 0]), ("image_std", [1, 1, None]), ("resample", [3]), ("resample", 5), ("do_resize", "no"),
    ("keep_aspect_ratio", 2), ("ensure_multiple_of", -14), ("ensure_multiple_of", "14"), ("rescale_factor", 0),
])
def test_preprocessing_that_is_none(folder, field, value):
    change(folder, "preprocessor_config.json", **{field: value})
    with pytest.raises(ValueError, match=rf"{folder}/preprocessor_config.json: {field}=.*, expected .*; fetch the file again"):
        TransformersDepthTeacher(folder)


def test_preprocessing_that_is_short():
    """One number for three colours; what is null is as if left out; another factor than 1/255."""
    made = Preparation.read(dict(size=64, image_mean=0.5, image_std=[0.25] * 3, resample=None, do_resize=None), {})
    assert made == Preparation.read(dict(size=[64, 64], image_mean=[0.5] * 3, image_std=0.25), {})
    assert (made.size, made.mean, made.std, made.scale, made.mode) == ((64, 64), (0.5,) * 3, (0.25,) * 3, 1.0, "bicubic")
    assert Preparation.read(dict(rescale_factor=1 / 255), {}).scale == 1.0
    assert Preparation.read(dict(rescale_factor=1 / 127.5), {}).scale == pytest.approx(2)


@pytest.mark.parametrize("field, value", [
    ("max_depth", "x"), ("max_depth", -1), ("max_depth", float("inf")), ("max_depth", 0.1), ("backbone_config", "dinov2"),
    ("bin_configurations", [3]), ("bin_configurations", [dict(max_depth=[1])]), ("depth_estimation_type", "both"),
])
def test_configurations_that_are_none(folder, field, value):
    with pytest.raises(CheckpointError, match=r"config.json: \w+=.*, expected .*; fetch the file again"):
        TransformersDepthTeacher(change(folder, **{field: value}))


def test_kinds_that_are_none(folder):
    with pytest.raises(ValueError, match="which is no depth network of transformers"):
        TransformersDepthTeacher(change(folder, model_type=["dpt"]))


@pytest.mark.parametrize("options, told", [
    ("resolution=-5", "resolution=-5, expected a whole number from 32 to 4096"), ("resolution=0", "resolution=0, expected"),
    ("resolution=1000000", "resolution=1000000, expected"), ("near=5&far=3", "depth between near=5.0 and far=3.0 metres"),
    ("near=nan", "depth between near=nan"), ("far=inf", "and far=inf metres"), ("near=0", "near=0.0 and far=20.0"),
    ("near=-1", "near=-1.0"), ("far=0", "far=0.0"),
])
def test_options_that_are_none(folder, options, told):
    change(folder, depth_estimation_type="metric", max_depth=20)
    assert TransformersDepthTeacher(folder, near=1, far=30).options("depth") == dict(encoding="log", near=1.0, far=30.0)
    with pytest.raises(ValueError, match=told):
        TransformersDepthTeacher.from_argument(f"{folder}?{options}")


def test_ends_are_of_metres_only(folder):
    with pytest.raises(ValueError, match="near and far are of depth in metres, and that of transformers:.* is disparity"):
        TransformersDepthTeacher(folder, far=10.0)


@pytest.mark.parametrize("made", ["depth_anything", "zoedepth"])
def test_a_depth_network_labels_nothing_else(made, original, tmp_path):
    teacher = TransformersDepthTeacher(original) if made == "depth_anything" else ZoeDepthTeacher(
        make_teachers.zoedepth(tmp_path / "zoe"))
    with pytest.raises(ValueError, match="intrinsic: .* predicts depth, not normal"):
        teacher.label(images(), "normal")
