"""`probes label`: what a teacher says about images, kept as files."""
from __future__ import annotations

import sys


def label(images: list[str] = [], teacher: str = "auto", intrinsic: str = "normal", output: str = "labels",  # noqa: B006
          formats: list[str] = ["npy"], first: int = 0, count: int | None = None, with_images: bool = False,  # noqa: B006
          batch: int | None = None, threads: int | None = None, device: str = "auto", overwrite: bool = False) -> None:
    """Labels images with a teacher's maps; goes on where it was left, and the folder is a teacher itself: labels:FOLDER.

    Args:
        images: a folder, image files, patterns, or data with its options: scenes, diode:PATH,split=val
        teacher: by name; exact for what data knows; by default the one for the images' world
        intrinsic: one or several: normal,depth
        output: folder
        formats: npy, exr, png16; png to look at beside one of these
        first: of data, the first image
        count: of data, how many images; all by default
        with_images: write the images too, so that the folder is a dataset by itself: maps:FOLDER
        batch: images of one size at once; the teacher's own by default
        threads: that decode; as many as there are processors by default
        device: cpu, cuda or auto
        overwrite: discard the labels that the folder holds
    """
    from ..labelling import label as run

    if not images:
        raise ValueError("images: expected a folder, image files or data, for instance `probes label photos/ --teacher NAME`")
    done = run(images if len(images) > 1 else images[0], teacher, intrinsic, output, formats, first, count, with_images, batch,
               threads, device, overwrite)
    for line in done.failed:
        print(line, file=sys.stderr)
    kept = f", {done.kept} kept" if done.kept else ""
    print(f"{output}: {intrinsic} of {done.written} images{kept}; use it with --teacher labels:{output}")
    if done.failed:
        others = "; the others are done" if done.written + done.kept else ""
        total = len(done.failed) + done.written + done.kept
        raise ValueError(f"{len(done.failed)} of {total} images could not be labelled{others}")
