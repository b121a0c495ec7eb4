"""The inner operations of StyleGAN generators: :func:`upfirdn2d`, :func:`bias_act` and :func:`filtered_lrelu`.

Each exists in torch, everywhere, and as C++/CUDA extensions that are compiled on first use on a CUDA tensor, never at
import. All give the same result and have gradients of any order. ``PROBES_OPS=auto|torch|cpu|cuda`` chooses (see
``_dispatch.py``); ``python -m generators.ops`` says what this machine has and checks it.
"""
from ._bias_act import bias_act as bias_act
from ._dispatch import wanted_extension as wanted_extension
from ._filtered_lrelu import filtered_lrelu as filtered_lrelu
from ._filters import setup_filter as setup_filter
from ._upfirdn2d import upfirdn2d as upfirdn2d

__all__ = ["bias_act", "filtered_lrelu", "setup_filter", "upfirdn2d", "wanted_extension"]
