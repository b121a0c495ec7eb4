"""Published checkpoints: what is known of each. The tables stand in the families' own packages.

Where a publisher gives no hash, `sha256` is None: the hash of the first download is kept beside the file, in
`<file>.sha256`, and every later use is checked against it.
"""

from dataclasses import dataclass

from ._families import published


@dataclass(frozen=True)
class PublicCheckpoint:
    """One published file.

    Args:
        name: what it is called here.
        url: what is downloaded.
        family: whose architecture it has, e.g. "stylegan2".
        resolution: side of its images in pixels.
        license: the licence of the weights, which is their publisher's, not this software's.
        source: the page that publishes it.
        description: what it draws.
        sha256: of the file, where it is published.
        config_url: of the configuration that belongs to the file, where it comes in two.
        fid: Fréchet inception distance to its training set, 50k images, where its publisher states it.
    """

    name: str
    url: str
    family: str
    resolution: int
    license: str
    source: str
    description: str
    sha256: str | None = None
    fid: float | None = None
    config_url: str | None = None


def public() -> dict[str, PublicCheckpoint]:
    """Every published checkpoint, by name, in the order of the families."""
    return {name: entry for module in published() for name, entry in module.PUBLIC.items()}
