"""Albedo and shading of any image from *paradigms*: no labelled pictures, no rendered scenes, no download.

Forsyth and Rock (arXiv 2011.10512) teach intrinsic image decomposition without ground truth: draw fake albedos and fake
shadings that have only the statistics one believes in (albedo piecewise constant, few colours, sharp edges; shading smooth
but for creases and shadows, colourless), multiply them, and train a network to take the product apart. Nothing in a paradigm
is a picture of anything.

`_shapes` draws regions, `_albedo` colours them, `_shading` lights them, `_sample` multiplies and spoils the product as a
camera would; `_network` takes them apart and `_teacher` brings that to images of any size. No code of the paper is public:
this is the idea rebuilt. Nothing is fitted to an albedo or a shading of the scenes world; how strong the paradigms' shading is
and the network's one constant, λ, were chosen with an eye on its errors there, on other scenes than those the card reports.
"""

from ._sample import Paradigms as Paradigms
from ._sample import sample_paradigms as sample_paradigms
from ._teacher import ParadigmsTeacher as ParadigmsTeacher
