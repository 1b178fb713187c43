"""Affine: the last stage, which writes the result."""

import math

from torch import Tensor, nn

from ...ops import algebra
from ...ops.dispatch import Passes
from ..checks import check_choice, check_count, check_flag, check_number
from .scaling import NormalizedScaling
from .stage import Entry, Layer, Stage

# What the gate of UBN's authors starts at, where ours starts at one.
AUTHORS_GATE = 1 / (1 + math.exp(-NormalizedScaling.initial_bias))


class ChannelAffine(Stage):
    """BatchNorm's own: ``s * (weight * xhat + bias)``, or the bias outside of ``s``.

    Args:
        initial_weight: What ``weight`` starts from.
        bias_is_scaled: Whether the scaling gate ``s`` acts on the bias as well.

    Attributes:
        kernel_size: Of the depthwise kernel; 1 for none.
    """

    evaluates_as_batchnorm = True
    kernel_size = 1

    def __init__(
        self, initial_weight: float = 1.0, bias_is_scaled: bool = True
    ) -> None:
        check_number('initial_weight', initial_weight, math.isfinite, 'a finite number')
        check_flag('bias_is_scaled', bias_is_scaled)
        self.initial_weight = initial_weight
        self.bias_is_scaled = bias_is_scaled

    def parameters(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Weight and bias."""
        return layer.weight, layer.bias

    def __call__(
        self,
        layer: Layer,
        passes: Passes,
        pivot: Tensor,
        inv_std: Tensor,
        shift: Tensor,
        gate: Tensor | None,
    ) -> Tensor:
        """The result, from ``xhat = inv_std * (x - pivot) + shift``.

        Args:
            layer: The layer that has the parameters; None in place of all of them for
                no affine stage at all.
            passes: The passes over ``x``.
            pivot: ``(N, C)`` or ``(C,)``, as are the next two.
            inv_std: What ``x`` is multiplied by.
            shift: Added.
            gate: The scaling gate, ``(N, C)``, or None.
        """
        if layer.weight is not None:
            weight, bias = self.parameters(layer)
            inv_std, shift = weight * inv_std, weight * shift
            if gate is None:
                return passes.pointwise(pivot, inv_std, shift + bias)
            if not self.bias_is_scaled:
                return passes.pointwise(pivot, gate * inv_std, gate * shift + bias)
            shift = shift + bias
        if gate is not None:
            inv_std, shift = gate * inv_std, gate * shift
        return passes.pointwise(pivot, inv_std, shift)


class DepthwiseAffine(ChannelAffine):
    """``s * (depthwise(xhat; weight*delta + spatial_weight) + bias)``, zero padding.

    Sources: BNET, arXiv 2011.14150; UBN, arXiv 2311.15993.

    Args:
        kernel_size: Odd size ``k`` of the kernel, at least 3.
        initial_spatial: ``'zeros'``, or ``'kaiming'``: normal with standard deviation
            ``sigmoid(1) * sqrt(2/(k*k*C))``.
        initial_weight: What ``weight``, on the centre tap, starts from.
        bias_is_scaled: Whether the scaling gate ``s`` acts on the bias as well.
    """

    evaluates_as_batchnorm = False

    def __init__(
        self,
        kernel_size: int = 3,
        initial_spatial: str = 'zeros',
        initial_weight: float = 1.0,
        bias_is_scaled: bool = True,
    ) -> None:
        super().__init__(initial_weight, bias_is_scaled)
        check_count('kernel_size', kernel_size, odd=True, least=3)
        check_initial_spatial(initial_spatial)
        self.kernel_size = kernel_size
        self.initial_spatial = initial_spatial

    def entries(self) -> tuple[Entry, ...]:
        """``spatial_weight``, ``(C, k, k)``."""
        k = self.kernel_size
        kaiming = self.initial_spatial == 'kaiming'
        start = _kaiming if kaiming else None
        return (Entry('spatial_weight', neutral=0.0, trailing=(k, k), start=start),)

    def fold(self, state: dict[str, Tensor], bias_is_scaled: bool) -> None:
        """A kernel that has its centre tap alone is a channel weight."""
        kernel = state.pop('spatial_weight').clone()
        centre = kernel.shape[-1] // 2
        state['weight'] = state['weight'] + kernel[:, centre, centre]
        kernel[:, centre, centre] = 0
        if kernel.any():
            raise ValueError('spatial_weight is not zero off the centre')

    def __call__(
        self,
        layer: Layer,
        passes: Passes,
        pivot: Tensor,
        inv_std: Tensor,
        shift: Tensor,
        gate: Tensor | None,
    ) -> Tensor:
        """As for :class:`ChannelAffine`."""
        if layer.weight is None:
            return super().__call__(layer, passes, pivot, inv_std, shift, gate)
        kernel = algebra.spatial_kernel(
            layer.weight, layer.spatial_weight, self.kernel_size
        )
        bias = layer.bias
        if (
            gate is not None
        ):  # one number a map: it may as well act before the convolution
            inv_std, shift = gate * inv_std, gate * shift
            if self.bias_is_scaled:
                bias = gate * bias
        return passes.depthwise(pivot, inv_std, shift, kernel, bias)


def channel_or_depthwise(
    kernel_size: int,
    initial_spatial: str,
    initial_weight: float,
) -> ChannelAffine:
    """The affine stage with a kernel of that size; of size 1 it is BatchNorm's own.

    ``initial_spatial`` is checked, and has no effect, for ``kernel_size=1``.
    """
    check_count('kernel_size', kernel_size, odd=True)
    check_initial_spatial(initial_spatial)
    if kernel_size == 1:
        return ChannelAffine(initial_weight)
    return DepthwiseAffine(kernel_size, initial_spatial, initial_weight)


def check_initial_spatial(value: object) -> None:
    """Raise ValueError unless it names a start."""
    check_choice('initial_spatial', value, ('zeros', 'kaiming'))


def _kaiming(kernel: Tensor) -> None:
    # The authors' depthwise kernel meets the generic initialiser (kaiming_normal_,
    # fan_out) behind a gate that starts at sigmoid(1).
    nn.init.normal_(kernel, std=AUTHORS_GATE * math.sqrt(2 / kernel.numel()))
