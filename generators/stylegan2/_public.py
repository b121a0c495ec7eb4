"""Public StyleGAN2 checkpoints: where they are, and under which licence.

Names and addresses are those of the READMEs of NVlabs/stylegan2-ada-pytorch and NVlabs/stylegan2; their publisher gives
no hashes. `fid` is the publisher's own figure for that very file, None where there is none.
"""

from .._public import PublicCheckpoint

ADA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/"
TRANSFER = ADA + "transfer-learning-source-nets/"
TENSORFLOW = "https://nvlabs-fi-cdn.nvidia.com/stylegan2/networks/"
ADA_LICENSE = "Nvidia Source Code License (https://nvlabs.github.io/stylegan2-ada-pytorch/license.html)"
STYLEGAN2_LICENSE = "Nvidia Source Code License-NC (https://nvlabs.github.io/stylegan2/license.html)"
ADA_SOURCE = "https://github.com/NVlabs/stylegan2-ada-pytorch"
STYLEGAN2_SOURCE = "https://github.com/NVlabs/stylegan2"


def _ada(name: str, url: str, resolution: int, description: str) -> PublicCheckpoint:
    return PublicCheckpoint(name, url, "stylegan2", resolution, ADA_LICENSE, ADA_SOURCE, description)


def _tensorflow(name: str, dataset: str, resolution: int, text: str, fid: float | None = None) -> PublicCheckpoint:
    url = f"{TENSORFLOW}stylegan2-{dataset}-config-f.pkl"
    text = f"{text}, StyleGAN2 config F, TensorFlow pickle"
    return PublicCheckpoint(name, url, "stylegan2", resolution, STYLEGAN2_LICENSE, STYLEGAN2_SOURCE, text, fid=fid)


_ENTRIES = (
    _ada("stylegan2-ffhq", TRANSFER + "ffhq-res256-mirror-paper256-noaug.pkl", 256, "faces (FFHQ)"),
    _ada("stylegan2-ffhq-512", TRANSFER + "ffhq-res512-mirror-stylegan2-noaug.pkl", 512, "faces (FFHQ)"),
    _ada("stylegan2-ffhq-1024", ADA + "ffhq.pkl", 1024, "faces (FFHQ), the original StyleGAN2"),
    _ada("stylegan2-ffhq-1024-mirror", TRANSFER + "ffhq-res1024-mirror-stylegan2-noaug.pkl", 1024, "faces (FFHQ)"),
    _ada(
        "stylegan2-celebahq",
        TRANSFER + "celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl",
        256,
        "celebrities' faces (CelebA-HQ)",
    ),
    _ada("stylegan2-lsun-dog", TRANSFER + "lsundog-res256-paper256-kimg100000-noaug.pkl", 256, "dogs (LSUN Dog)"),
    _ada("stylegan2-metfaces", ADA + "metfaces.pkl", 1024, "painted and sculpted faces (MetFaces)"),
    _ada("stylegan2-afhq-cat", ADA + "afhqcat.pkl", 512, "cats' faces (AFHQ)"),
    _ada("stylegan2-afhq-dog", ADA + "afhqdog.pkl", 512, "dogs' faces (AFHQ)"),
    _ada("stylegan2-afhq-wild", ADA + "afhqwild.pkl", 512, "wild animals' faces (AFHQ)"),
    _ada("stylegan2-cifar10", ADA + "cifar10.pkl", 32, "objects of ten classes (CIFAR-10), class-conditional"),
    _ada("stylegan2-brecahad", ADA + "brecahad.pkl", 512, "histology of breast cancer (BreCaHAD)"),
    _tensorflow("stylegan2-ffhq-config-f", "ffhq", 1024, "faces (FFHQ)", fid=2.84),
    _tensorflow("stylegan2-lsun-car", "car", 512, "cars (LSUN Car), 384 rows of picture in 512"),
    _tensorflow("stylegan2-lsun-cat", "cat", 256, "cats (LSUN Cat)"),
    _tensorflow("stylegan2-lsun-church", "church", 256, "churches (LSUN Church)"),
    _tensorflow("stylegan2-lsun-horse", "horse", 256, "horses (LSUN Horse)"),
)

PUBLIC: dict[str, PublicCheckpoint] = {entry.name: entry for entry in _ENTRIES}
