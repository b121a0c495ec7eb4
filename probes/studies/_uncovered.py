"""Findings of the paper (arXiv 2311.17137) that no study here can put to the test, and why: the one place where they stand.

A finding leaves this list when a study covers it. What the software lacks for it is said, not what a reader would lack.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Uncovered:
    """
    Args:
        finding: in our words, with its place in the paper
        why: it is not testable here
        instead: what can be typed, or stands in for it here
    """

    finding: str
    why: str
    instead: str


UNCOVERED = (
    Uncovered("Published generators (VQGAN, StyleGAN2, StyleGAN-XL, Stable Diffusion), of human faces and rooms among others, "
              "hold all four intrinsics of what they draw (abstract).",
              "No published checkpoint could be fetched. They are read, and drawing is tested against the reference "
              "implementations' outputs, but no probe of one was fitted.",
              "`probes fit --generator stylegan2-ffhq --intrinsic normal`; the study `controls` asks it of the embedded ones"),
    Uncovered("On real photographs, from hundreds to thousands of labelled images, Stable Diffusion's intrinsics are on a par "
              "with those of supervised networks trained on millions, Omnidata's among them (abstract; DIODE's validation "
              "split, 771 images).",
              "Needs Stable Diffusion, the supervised networks and DIODE; none of them was at hand. The embedded `sd-scenes` "
              "knows rendered rooms only.",
              "`probes fit --generator sd-v1-5 --intrinsic normal --data photos/`, then `probes evaluate` of the run and of "
              "`omnidata` on the same data by the same protocols"),
    Uncovered("A LoRA and one linear head on DINOv2, a discriminative network, recover intrinsics too (Table 3).",
              "DINOv2's weights were not at hand, and its figures are on photographs.",
              "`probes fit --method encoder --method_options.model facebook/dinov2-base` asks it of the embedded generators' "
              "pictures, once its weights are there; `zoo.train_encoder` makes a small encoder of the scenes world"),
    Uncovered("Albedo and shading converge in about half of the steps that normals and depth take (Table 6).",
              "No study varies the number of steps, and the paper's settings are of photographs.",
              "`probes fit --intrinsic albedo --steps 300` beside `--steps 600`; every run folder has its loss curve"),
)
