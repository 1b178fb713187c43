"""Equalizing, centering, scaling and affine: the stages around the statistics.

Each is an affine map of every sample and channel, so its coefficients are ``(N, C)`` or
``(C,)``; with a kernel, the affine stage is a depthwise convolution.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...ops.passes import Coefficients
from ...ops.tensors import over_positions
from ..checks import check_choice, check_count, check_number
from .stage import Entry, Layer, Stage


class L2Equalizing(Stage):
    """Scales every sample to one L2 norm, ``sqrt(C*H*W)`` (L2BN, arXiv 2207.02625).

    Its elements then have a mean square of 1. A sample of zeros stays what it is.
    """

    def __call__(self, mean: Tensor, var: Tensor) -> Tensor:
        """The factor of each sample, ``(N, 1)``: ``sqrt(C*H*W) / |x_n|``.

        ``|x_n|^2`` is ``H*W * sum_c (V + K^2)``, and takes no pass. Where padded pixels
        are left out, both are over the valid part. ``K`` and ``V`` are ``mean`` and
        ``var``, biased, of each map, ``(N, C)``.
        """
        square = torch.addcmul(var, mean, mean).mean(dim=1, keepdim=True)
        # 0 for a sample of zeros, which then has no gradient in place of an infinite one.
        least = torch.finfo(square.dtype).tiny
        factor = torch.rsqrt(square.clamp(min=least))
        return torch.where(square < least, torch.zeros_like(factor), factor)


class Centering(Stage):
    """``x' = x + w_m * GAP(x)`` (RBN, CVPR 2021, eq. 2; UBN, arXiv 2311.15993)."""

    def entries(self) -> tuple[Entry, ...]:
        """``centering_weight``, ``(C,)``: ``w_m``."""
        return (Entry('centering_weight', neutral=0.0),)

    def merge_into_batchnorm(
        self, state: dict[str, Tensor], bias_is_scaled: bool
    ) -> None:
        """Nothing is left of a weight of zero."""
        if state.pop('centering_weight').any():
            raise ValueError('centering_weight is not zero')

    def __call__(self, layer: Layer, mean: Tensor) -> Tensor:
        """``K + w_m * K``, ``(N, C)``: the means of ``x'``."""
        return torch.addcmul(mean, layer.centering_weight, mean)


class NormalizedScaling(Stage):
    """``s = sigmoid(w_v * GAP(xhat) + w_b) / sigmoid(1)`` (RBN, CVPR 2021, eq. 4; UBN).

    Divided by its initial value, a fresh gate is exactly one.
    """

    initial_bias, is_raw = 1.0, False

    def entries(self) -> tuple[Entry, ...]:
        """``scaling_weight`` and ``scaling_bias``, ``(C,)``: ``w_v`` and ``w_b``."""
        return (
            Entry('scaling_weight', neutral=0.0),
            Entry('scaling_bias', neutral=self.initial_bias),
        )

    def __call__(self, layer: Layer, pooled: Tensor, raw: Tensor) -> Tensor:
        """The gate ``s`` by ``GAP(xhat)`` and ``GAP(x)``, ``(N, C)`` each."""
        source = raw if self.is_raw else pooled
        return self._gate(layer.scaling_weight * source + layer.scaling_bias)

    def merge_into_batchnorm(
        self, state: dict[str, Tensor], bias_is_scaled: bool
    ) -> None:
        """A gate that does not depend on the input is a factor."""
        if state.pop('scaling_weight').any():
            raise ValueError('scaling_weight is not zero')
        gate = self._gate(state.pop('scaling_bias'))
        state['weight'] = gate * state['weight']
        if 'spatial_weight' in state:
            state['spatial_weight'] = over_positions(gate) * state['spatial_weight']
        if bias_is_scaled:
            state['bias'] = gate * state['bias']

    def _gate(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z) * (1 + math.exp(-self.initial_bias))


class RawScaling(NormalizedScaling):
    """``s = sigmoid(w_v * GAP(x) + w_b) / sigmoid(-1)`` (IEBN, AAAI 2020, eq. 5)."""

    initial_bias, is_raw = -1.0, True


# What the gate of UBN's authors starts at, where ours starts at one.
AUTHORS_GATE = 1 / (1 + math.exp(-NormalizedScaling.initial_bias))


@dataclass(eq=False)
class ChannelAffine(Stage):
    """BatchNorm's own: ``s * (weight * xhat + bias)``, or the bias outside of ``s``.

    Args:
        initial_weight: What ``weight`` starts from.
        bias_is_scaled: Whether the scaling gate ``s`` acts on the bias as well.
    """

    evaluates_as_batchnorm = True

    initial_weight: float = 1.0
    bias_is_scaled: bool = True

    def __post_init__(self) -> None:
        weight = self.initial_weight
        check_number('initial_weight', weight, math.isfinite, 'a finite number')

    def parameters(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Weight and bias."""
        return layer.weight, layer.bias

    def start_weight(self, weight: Tensor) -> None:
        """Fill ``weight``, ``(C,)``, in place with what it starts from."""
        nn.init.constant_(weight, self.initial_weight)

    def upgrade(self, state: dict[str, Tensor], prefix: str) -> None:
        """Bring a layer's entries in an older model's state up to date, in place."""

    def __call__(
        self, layer: Layer, xhat: Coefficients, gate: Tensor | None
    ) -> Coefficients:
        """What makes the result, from what makes ``xhat``, which has no kernel.

        The scaling gate is ``(N, C)`` or None. All parameters of the layer are None where
        there is no affine stage at all.
        """
        pivot, inv_std, shift, *_ = xhat
        if layer.weight is not None:
            weight, bias = self.parameters(layer)
            inv_std, shift = weight * inv_std, weight * shift
            if gate is None:
                return Coefficients(pivot, inv_std, shift + bias)
            if not self.bias_is_scaled:
                return Coefficients(pivot, gate * inv_std, gate * shift + bias)
            shift = shift + bias
        if gate is not None:
            inv_std, shift = gate * inv_std, gate * shift
        return Coefficients(pivot, inv_std, shift)


STARTS = 'zeros', 'kaiming', 'fan_in'  # of a depthwise kernel


@dataclass(eq=False)
class DepthwiseAffine(ChannelAffine):
    """``s * (depthwise(xhat; kernel) + bias)``, zero padding.

    The kernel is ``weight`` at the centre and ``spatial_weight`` around it. The centre of
    ``spatial_weight`` takes no part: it stays zero and gets no gradient, so that every
    tap is one parameter.

    Sources: BNET, arXiv 2011.14150, whose settings these are; UBN, arXiv 2311.15993.
    """

    evaluates_as_batchnorm = False

    kernel_size: int = 3
    initial_spatial: str = 'zeros'

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count('kernel_size', self.kernel_size, odd=True, least=3)
        check_choice('initial_spatial', self.initial_spatial, STARTS)

    def entries(self) -> tuple[Entry, ...]:
        """``spatial_weight``, ``(C, k, k)``."""
        k = self.kernel_size
        start = None if self.initial_spatial == 'zeros' else self._start_around
        return (Entry('spatial_weight', neutral=0.0, trailing=(k, k), start=start),)

    def start_weight(self, weight: Tensor) -> None:
        """Fill ``weight``, ``(C,)``, in place with what it starts from."""
        super().start_weight(weight)
        if self.initial_spatial != 'zeros':
            with torch.no_grad():
                weight.add_(
                    torch.randn_like(weight), alpha=self._deviation(len(weight))
                )

    def _start_around(self, spatial_weight: Tensor) -> None:
        nn.init.normal_(spatial_weight, std=self._deviation(len(spatial_weight)))
        _centre(spatial_weight).zero_()

    def _deviation(self, channels: int) -> float:
        if self.initial_spatial == 'fan_in':  # the output has the variance of the input
            return 1 / self.kernel_size
        # The authors' depthwise kernel meets the generic initialiser (kaiming_normal_,
        # fan_out) behind a gate that starts at sigmoid(1).
        return AUTHORS_GATE * math.sqrt(2 / (self.kernel_size**2 * channels))

    def upgrade(self, state: dict[str, Tensor], prefix: str) -> None:
        """Add the centre of ``spatial_weight``, which used to take part, to ``weight``."""
        weight, spatial = f'{prefix}weight', f'{prefix}spatial_weight'
        if weight in state and spatial in state:
            kernel = state[spatial].clone()
            state[weight] = state[weight] + _centre(kernel)
            _centre(kernel).zero_()
            state[spatial] = kernel

    def merge_into_batchnorm(
        self, state: dict[str, Tensor], bias_is_scaled: bool
    ) -> None:
        """A kernel that has its centre tap alone is a channel weight; others stay."""
        kernel = state['spatial_weight'].clone()
        _centre(kernel).zero_()
        if not kernel.any():
            del state['spatial_weight']

    def __call__(
        self, layer: Layer, xhat: Coefficients, gate: Tensor | None
    ) -> Coefficients:
        """As for :class:`ChannelAffine`."""
        if layer.weight is None:
            return super().__call__(layer, xhat, gate)
        pivot, inv_std, shift, *_ = xhat
        kernel = spatial_kernel(layer.weight, layer.spatial_weight)
        bias = layer.bias
        if gate is not None:
            # One number a map: it may as well act before the convolution.
            inv_std, shift = gate * inv_std, gate * shift
            if self.bias_is_scaled:
                bias = gate * bias
        return Coefficients(pivot, inv_std, shift, kernel, bias)


def spatial_kernel(weight: Tensor, spatial_weight: Tensor) -> Tensor:
    """``weight``, ``(C,)``, at the centre, ``spatial_weight`` around it: ``(C, k, k)``."""
    k = spatial_weight.shape[-1]
    around = k * k // 2
    before, _, after = spatial_weight.flatten(1).split([around, 1, around], dim=1)
    return torch.cat([before, weight.unsqueeze(1), after], dim=1).view(-1, k, k)


def _centre(kernel: Tensor) -> Tensor:
    """A view of the centre taps, ``(C,)``, of a ``(C, k, k)``."""
    middle = kernel.shape[-1] // 2
    return kernel.detach()[..., middle, middle]
