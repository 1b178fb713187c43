"""Lets MMEngine's FLOP counter count the operations of our layers.

It traces a model and knows convolutions and ``aten::batch_norm``; our layers trace as
sums and products of maps, which it leaves out.
"""

import functools
from collections import Counter
from collections.abc import Callable, Collection
from math import prod
from typing import Any

import torch

from ..layers.pipeline import PipelineNorm

COUNTED_AS = 'norm'  # among the operators


def _counting_norms(original: Callable) -> Callable:
    @functools.wraps(original)
    def __init__(self: Any, model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        original(self, model, *args, **kwargs)
        modules = model.named_modules(remove_duplicate=False)
        names = {name for name, module in modules if isinstance(module, PipelineNorm)}
        if names:
            self.set_op_handle(**_handles(names))

    return __init__


def _handles(names: Collection[str]) -> dict[str, Callable]:
    """The operations that pass over a map, within the layers of these names.

    As for ``aten::batch_norm`` in evaluation, a scale and a shift count one each: what is
    subtracted from the input belongs to the shift. The statistics of each map count one
    more, a depthwise convolution for itself, and its bias one. What is done with ``(N, C)``
    numbers counts nothing, as in BatchNorm.
    """

    def handle(values: Callable[[list, list], Any]) -> Callable:
        def count(inputs: list, outputs: list) -> Counter:
            scope = outputs[0].node().scopeName().split('/')[-1]
            shape = values(inputs, outputs).type().sizes()
            if scope not in names or shape is None or len(shape) != 4:
                return Counter()
            return Counter({COUNTED_AS: prod(shape)})

        return count

    source, result = handle(lambda x, y: x[0]), handle(lambda x, y: y[0])
    return {
        'aten::mean': source,
        'aten::var_mean': source,
        'aten::mul': result,
        'aten::add': result,
        'aten::sub': lambda inputs, outputs: Counter(),
    }


COUNTER = (
    'mmengine.analysis.complexity_analysis',
    'FlopAnalyzer.__init__',
    _counting_norms,
)
