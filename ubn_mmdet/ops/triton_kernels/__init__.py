"""A layer's passes and algebra as Triton kernels. Importing this imports Triton.

Each file holds the kernels of one pass and the function that launches them, on tensors
and without autograd:

- ``moments.py``: mean and variance of each map, and the Gram matrix of a small batch;
- ``apply.py``: the result, for k > 1 with the depthwise convolution inside;
- ``reduce.py``: what the coefficients' gradients are made of, from one read of ``dy, x``;
- ``gradient.py``: ``dx``, for k > 1 with the transposed convolution inside;

and between them, on ``(N, C)`` tensors alone:

- ``coefficients.py``: from moments to what the apply takes, and the averages moved;
- ``coefficients_backward.py``: from sums to all other gradients.

A pass reads each of its large tensors once; the neighbours that a convolution reads again
come from a cache. ``tiles.py`` says which program works on what. Results do not depend on
the order in which programs run: nothing is added up atomically.
"""

from .apply import apply
from .coefficients import MAX_CHANNELS, MAX_SAMPLES, coefficients, pack
from .coefficients_backward import gradients, to_maps, to_statistics
from .gradient import gradient
from .moments import GRAM_SAMPLES, moments
from .reduce import reduce

__all__ = [
    'GRAM_SAMPLES',
    'MAX_CHANNELS',
    'MAX_SAMPLES',
    'apply',
    'coefficients',
    'gradient',
    'gradients',
    'moments',
    'pack',
    'reduce',
    'to_maps',
    'to_statistics',
]
