"""What hand-written backwards have in common: they cannot be differentiated again."""

from collections.abc import Callable
from functools import wraps

import torch


def first_order(backward: Callable) -> Callable:
    """Refuse to be differentiated: what a backward here does, autograd does not see.

    ``once_differentiable`` refuses only if a gradient that comes in needs one itself;
    otherwise a second derivative would silently lack what goes through here.
    """

    @wraps(backward)
    def checked(ctx, *gradients):
        if torch.is_grad_enabled():
            raise RuntimeError(
                'the hand-written backward of ubn_mmdet cannot be differentiated '
                '(create_graph=True); run the layer within ubn_mmdet.reference_passes()'
            )
        return backward(ctx, *gradients)

    return checked
