"""How a name becomes a file: published ones, those of a hub, and what is imported on the way there."""
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from make_sd import PARTS, weights, write_folder, write_original
from safetensors.torch import load_file, save_file

import generators
from generators import _catalog
from generators._families import PACKAGES, READERS, readers
from generators._files import file_sha256
from generators._public import public
from generators.checkpoints import Checkpoint, CheckpointError
from probes.teachers._scenes import _FILES as EMBEDDED_TEACHERS
from probes.teachers._scenes import ScenesTeacher


@pytest.fixture
def asked(monkeypatch):
    """What would be fetched, as (address, hash, name in the cache) or a hub's name; nothing is."""
    asked = []

    def fetch(url, sha256=None, filename=None):
        asked.append((url, sha256, filename))
        return Path("cache", filename)

    def resolve(name, revision=None, variant=None):
        asked.append((name, revision, variant) if revision or variant else name)
        return Path("hub", name)

    monkeypatch.setattr("generators._download.fetch", fetch)
    monkeypatch.setattr("generators.stable_diffusion._public.resolve", resolve)
    return asked


def test_every_published_checkpoint_is_fetched_as_its_family_does(asked):
    suffixes = {"stylegan2": ".pkl", "stylegan3": ".pkl", "stylegan-xl": ".pkl", "vqgan": ".ckpt"}
    for name, entry in public().items():
        asked.clear()
        found, path, config, world = _catalog._locate(name)
        assert (found, world) == (name, "photographs")
        if entry.family == "stable-diffusion":
            assert asked == [entry.url] and path == Path("hub", entry.url) and config is None
            continue
        assert path == Path("cache", name + suffixes[entry.family]) and (entry.url, entry.sha256, path.name) in asked
        assert config == (Path("cache", f"{name}.yaml") if entry.config_url else None)
        assert len(asked) == 1 + bool(entry.config_url)


def test_other_names_are_a_hubs_or_unknown(asked, tmp_path):
    assert _catalog._locate("someone/model") == ("someone/model", Path("hub/someone/model"), None, "photographs")
    assert asked == ["someone/model"]
    for name in ("nobody/some.ckpt", tmp_path):      # a path, there or not
        assert _catalog._locate(name)[1] == Path(name)
    with pytest.raises(generators.UnknownNameError, match="did you mean 'sd-v1-5'"):
        _catalog._locate("sd-v15")
    assert len(asked) == 1
    assert _catalog._locate("sd-v1-5", "main", "fp16")[1] == Path("hub", public()["sd-v1-5"].url)
    _catalog._locate("someone/model", variant="fp16")
    assert asked[1:] == [(public()["sd-v1-5"].url, "main", "fp16"), ("someone/model", None, "fp16")]
    for name in ("stylegan2-ffhq", "stylegan2-scenes", tmp_path):
        with pytest.raises(ValueError, match="^revision: .* is not on the Hugging Face hub"):
            _catalog._locate(name, revision="main")


def test_a_configuration_is_a_name_of_the_familys_or_a_path(monkeypatch, tmp_path):
    """What is recorded of it loads the generator again, from wherever that is done."""
    generator = FAMILIES["stable-diffusion"][0]()
    monkeypatch.setattr("generators.checkpoints.read_checkpoint", lambda path, *given: Checkpoint(
        "stable-diffusion", generator.network.config.to_dict(), dict(generator.network.state_dict()), str(path), "0"))
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    for given, kept in (("sd21", "sd21"), ("folder", str(tmp_path / "folder"))):
        assert generators.load("model.safetensors", config=given).origin == {"config": kept}


def test_a_folder_says_itself_what_it_is(tmp_path):
    write_folder(tmp_path / "sd")
    with pytest.raises(CheckpointError, match="^config: .*sd is a diffusers folder, .*leave config out"):
        generators.load(tmp_path / "sd", config="sd21")


def test_devices_by_name(monkeypatch):
    sought = "cuda" if torch.cuda.is_available() else "cpu"
    assert generators.load("stylegan2-scenes@16k", device="auto").device.type == sought
    monkeypatch.setattr(_catalog, "_locate", lambda *given: 1 / 0)      # nothing is looked for before that is known
    for device in ("gpu", "cuda:first", None):
        with pytest.raises(ValueError, match=f"^device: expected 'cpu', 'cuda', .* or 'auto', got {device!r}"):
            generators.load("sd-v1-5", device=device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="^device: cuda was asked for, .*use device='cpu' or 'auto'"):
        generators.load("sd-v1-5", device="cuda:1")
    with pytest.raises(ValueError, match="^weights: expected 'pretrained'"):
        generators.load("sd-v1-5", "trained")


def test_which_weights_of_a_folder_are_read_is_recorded(tmp_path):
    write_folder(tmp_path / "sd")
    for part in PARTS:
        half = {name: value.half() for name, value in load_file(weights(tmp_path / "sd", part)).items()}
        save_file(half, weights(tmp_path / "sd", part, ".fp16"))
    whole, half = (generators.load(tmp_path / "sd", **given) for given in ({}, {"variant": "fp16"}))
    assert whole.origin == {} and half.origin == {"variant": "fp16"} and half.fingerprint != whole.fingerprint
    assert generators.load(half.address, **half.origin).fingerprint == half.fingerprint
    with pytest.raises(ValueError, match="variant cannot be changed on a generator that is already built"):
        generators.load(half, variant="fp16")
    write_original(tmp_path / "one.safetensors")
    for name, message in ((tmp_path / "one.safetensors", "is a single file"), ("stylegan2-scenes", "is no diffusers folder")):
        with pytest.raises(CheckpointError, match=f"^variant: .* {message}.*leave variant out"):
            generators.load(name, variant="fp16")


def test_weights_that_ship_are_those_of_their_card(monkeypatch, tmp_path):
    """One bit that changed would only draw other images, and with them measure something else."""
    entry = _catalog.catalog()["stylegan2-scenes@16k"]
    data = bytearray(Path(entry.source).read_bytes())
    data[-1] ^= 1
    (tmp_path / "altered.safetensors").write_bytes(data)
    altered = {**_catalog.catalog(), entry.name: replace(entry, source=str(tmp_path / "altered.safetensors"))}
    monkeypatch.setattr(_catalog, "catalog", lambda: altered)
    with pytest.raises(CheckpointError, match="altered.safetensors is not the file that its card speaks"):
        generators.load(entry.name)
    for name in ("scenes.json", "scenes.safetensors"):
        data = bytearray((EMBEDDED_TEACHERS / name).read_bytes())
        data[-1] ^= name.endswith("safetensors")
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match="scenes.safetensors is not the file"):
        ScenesTeacher(tmp_path)


def test_readers_are_of_families_and_their_formats():
    assert set(READERS) <= set(PACKAGES.values())
    for kind, packages in {"torch": ["stable_diffusion", "vqgan"], "safetensors": ["stable_diffusion"], "pickle": []}.items():
        assert [reader.__name__ for reader in readers(kind)] == [f"generators.{name}._reader" for name in packages]


def test_nothing_slow_is_imported_before_it_is_used(tmp_path):
    """diffusers and transformers take seconds; a StyleGAN does without, and its pickle without the other families too."""
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04N.")
    code = f"""
import sys, generators
from generators.checkpoints import CheckpointError, read_checkpoint
try:
    read_checkpoint({str(tmp_path / "a.pkl")!r})
except CheckpointError as error:
    assert "without a StyleGAN generator" in str(error)
else:
    raise SystemExit("it was read")
print(*sorted({{"generators.vqgan", "generators.stable_diffusion"}} & set(sys.modules)), file=sys.stderr)
generators.load("stylegan2-scenes")
generators.catalog()
print(*sorted({{"diffusers", "transformers", "huggingface_hub"}} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []


def test_what_ships_is_small_and_says_where_it_comes_from():
    """Under 8 MB each and 60 MB in all; each card has the recipe, its seed, the hardware, and what was measured."""
    root, total = Path(generators.__file__).parent.parent, 0
    shipped = [p for folder in ("generators", "probes", "adapters") for p in sorted((root / folder).rglob("*.safetensors"))]
    assert len(shipped) > 15
    for path in shipped:
        total += path.stat().st_size
        assert path.stat().st_size < 8e6, path
        card = json.loads((path.with_suffix(".json") if path.with_suffix(".json").exists() else
                           path.with_name("card.json")).read_text())
        assert {"recipe", "hardware", "licence"} <= set(card) and "seed" in card["recipe"], path
        assert card["sha256"] == file_sha256(path)
        assert {"frechet", "exact_errors", "linear_readout"} & set(card), path
    assert total < 60e6


def test_the_levels_of_a_family_are_what_their_cards_say():
    entries = {name: generators.card(name) for name, e in generators.catalog().items() if e.kind == "embedded"}
    for name, card in entries.items():
        final, _, level = name.partition("@")
        assert card["name"] == name and card["family"] == entries[final]["family"]
        assert not level or card["images"] == 1000 * int(level.removesuffix("k")) < entries[final]["images"]
        assert not level or card["frechet"]["value"] > entries[final]["frechet"]["value"]
    assert sum(name.startswith("stylegan2-scenes@") for name in entries) >= 4
