"""Public VQGAN checkpoints: where they are, and under which licence.

Names and figures are those of the README of CompVis/taming-transformers. It links to shared folders; the addresses of the
files within them are those that its users' download scripts have (the run's name is part of each). A checkpoint comes with
a .yaml. Models that draw from a condition image are not listed unless a direct address is known: COCO-Stuff
(https://k00.fr/2zz6i2ce), ADE20K (https://k00.fr/ot46cksa), D-RIN (https://k00.fr/39jcugc5); they cannot be drawn from here.
First stages alone draw nothing either: they encode and decode (`generators.vqgan.VQGANNetwork`).
"""

from .._public import PublicCheckpoint

SOURCE = "https://github.com/CompVis/taming-transformers"
LICENSE = "MIT (of the publishing repository; nothing is said of the weights by themselves)"
UNCLEAR = "unclear: published with an MIT repository, trained on photographs that may not be distributed"
KOOFR, HEIBOX = "https://app.koofr.net/content/links/", "https://heibox.uni-heidelberg.de/d/"
FIRST_STAGE = "; a first stage alone: encodes and decodes, draws nothing"


def _koofr(folder: str, run: str, place: str, file: str) -> str:
    return f"{KOOFR}{folder}/files/get/{file}?path=%2F{run}%2F{place}%2F{file}"


def _heibox(folder: str, place: str, file: str) -> str:
    return f"{HEIBOX}{folder}/files/?p=%2F{place}%2F{file}&dl=1"


def _entry(name: str, url: str, config_url: str | None, text: str, fid: float | None = None,
           license: str = LICENSE) -> PublicCheckpoint:
    return PublicCheckpoint(name, url, "vqgan", 256, license, SOURCE, text, fid=fid, config_url=config_url)


def _transformer(name: str, folder: str, run: str, config_url: str | None, text: str,
                 fid: float | None = None) -> PublicCheckpoint:
    """A run whose .yaml is the given one, or stands in its own folder when that is the empty string."""
    if config_url == "":
        config_url = _koofr(folder, run, "configs", f"{run[:19]}-project.yaml") + "&force"
    return _entry(name, _koofr(folder, run, "checkpoints", "last.ckpt"), config_url, text, fid)


def _first_stage(name: str, folder: str, text: str) -> PublicCheckpoint:
    weights, config = _heibox(folder, "ckpts", "last.ckpt"), _heibox(folder, "configs", "model.yaml")
    return _entry(name, weights, config, text + FIRST_STAGE)


_ENTRIES = (
    _transformer("vqgan-ffhq", "0fc005bf-3dca-4079-9d40-cdf38d42cd7a", "2021-04-23T18-19-01_ffhq_transformer", "",
                 "faces (FFHQ), f = 16; published sampling: top_k=250", fid=9.6),
    _transformer("vqgan-celebahq", "6dddf083-40c8-470a-9360-a9dab2a94e96", "2021-04-23T18-11-19_celebahq_transformer", "",
                 "celebrities' faces (CelebA-HQ), f = 16; published sampling: top_k=250", fid=10.2),
    _transformer("vqgan-faceshq", "a04deec9-0c59-4673-8b37-3d696fe63a5d", "2020-11-13T21-41-45_faceshq_transformer",
                 "https://drive.google.com/uc?export=download&id=1fHwGx_hnBtC8nsq7hesJvs-Klv-P0gzT",
                 "faces (FFHQ and CelebA-HQ), f = 16, coordinate-conditional"),
    _transformer("vqgan-imagenet", "90cbd5aa-ef70-4f5e-99bc-f12e5a89380e", "2021-04-03T19-39-50_cin_transformer", None,
                 "1000 classes (ImageNet), f = 16, class-conditional, 1.4 billion parameters; FID 15.98 to 5.20 by how it is "
                 "sampled (published: top_k=600, top_p=0.92). Needs config=: the configs/…-project.yaml of "
                 "https://k00.fr/s511rwcv"),
    _entry("vqgan-sflckr", _heibox("73487ab6e5314cb5adba", "checkpoints", "last.ckpt"),
           _heibox("73487ab6e5314cb5adba", "configs", "2020-11-09T13-31-51-project.yaml"),
           "landscapes (S-FLCKR), f = 16, from segmentation maps, which it cannot be given here", license=UNCLEAR),
    _first_stage("vqgan-imagenet-f16-1024", "8088892a516d4e3baf92", "photographs (ImageNet), f = 16, 1024 codes"),
    _first_stage("vqgan-imagenet-f16-16384", "a7530b09fed84f80a887", "photographs (ImageNet), f = 16, 16384 codes"),
    _first_stage("vqgan-gumbel-f8", "2e5662443a6b4307b470", "photographs (OpenImages), f = 8, 8192 codes, GumbelVQ"),
)

PUBLIC: dict[str, PublicCheckpoint] = {entry.name: entry for entry in _ENTRIES}
