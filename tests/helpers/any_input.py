"""Strategies of Hypothesis: layers of any settings, and input of any kind."""

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.layers import shake
from ubn_mmdet.layers import (
    BGN,
    BNET,
    FAMILY,
    IEBN,
    L2BN,
    MABN,
    MBN,
    RBN,
    UBN,
    BatchRenorm,
    InitBN,
    JSNorm,
    PowerNorm,
)

flags = st.booleans()
starts = st.sampled_from([0, 0.1, 1.0, -2.0])
counts = st.integers(0, 3)
# Off the values that simple batches give: a tie would be decided by rounding.
thresholds = st.sampled_from([None, 0.0, 0.1503, 0.9371])
COMMON = {
    'eps': st.sampled_from([1e-5, 1e-3, 1.0]),
    'momentum': st.sampled_from([0.0, 0.1, 1.0, None]),
    'affine': flags,
    'track_running_stats': flags,
    'sync': flags,
    'sync_group_size': st.sampled_from([None, 1, 8]),
}
TRACKS = {'track_running_stats': st.just(True)}
OWN = {
    UBN: {
        'centering': flags,
        'scaling': st.sampled_from(['normalized', None]),
        'kernel_size': st.sampled_from([1, 3, 5]),
        'initial_weight': starts,
        'initial_spatial': st.sampled_from(['zeros', 'kaiming', 'fan_in']),
        'condensation_threshold': thresholds,
        'condensation_feature': st.sampled_from(['flat', 'pooled']),
        'condensation_opens': st.sampled_from(['similar', 'dissimilar']),
    },
    RBN: {},
    IEBN: {},
    BNET: {'kernel_size': st.sampled_from([3, 5]), 'initial_weight': starts},
    BGN: {},
    InitBN: {'initial_weight': starts},
    BatchRenorm: TRACKS
    | {
        'r_max': st.sampled_from([1, 1.1, 3.0]),
        'd_max': st.sampled_from([0, 0.1, 5.0]),
    },
    MABN: TRACKS
    | {
        'memory_size': st.integers(1, 3),
        'warmup_steps': counts,
        'renorm_steps': counts,
        'r_max': st.sampled_from([1, 1.1, 5.0]),
    },
    MBN: TRACKS
    | {
        'memory_size': st.integers(1, 3),
        'decay': st.sampled_from([0.5, 0.9, 1.0]),
    },
    PowerNorm: TRACKS
    | {'warmup_steps': counts, 'momentum': st.sampled_from([0.0, 0.1, 1.0])},
    JSNorm: {},
    L2BN: {},
}
assert OWN.keys() == set(FAMILY)

# Not float8: PyTorch itself does next to nothing with it.
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = [
    'contiguous',
    'channels_last',
    'transposed',
    'channels first',
    'sliced',
    'offset',
    'expanded',
]
KINDS = ['usual', 'alike', 'far', 'small', 'constant']
# Besides numbers of every magnitude up to 1e15: what statistics cannot be made of.
HOSTILE = ['zeros', 'big', 'huge', 'inf', '-inf', 'nan', 'all nan', 'mixed']


@st.composite
def settings_of(draw: st.DrawFn, norm: type[nn.Module], channels: int) -> dict:
    """Keywords that the constructor takes; each is left out at times."""
    options = COMMON | OWN[norm]
    settings = draw(st.fixed_dictionaries({}, optional=options))
    if norm is BatchRenorm:  # so that the limits are reached
        settings |= {'plain_steps': 0}
        settings |= {'r_steps': draw(counts), 'd_steps': draw(counts)}
    if norm is BGN:
        settings['num_groups'] = draw(st.sampled_from([1, 2, 3, channels]))
    return settings


@st.composite
def layers(draw: st.DrawFn, channels: int, dtype=torch.float64) -> nn.Module:
    """A layer with all its state away from the start, in training or in evaluation."""
    norm = draw(st.sampled_from(FAMILY))
    layer = norm(channels, dtype=dtype, **draw(settings_of(norm, channels)))
    if draw(flags):
        shake(layer)
    return layer.train(draw(flags))


@st.composite
def shapes(draw: st.DrawFn, empty: bool = True) -> tuple[int, ...]:
    """``(N, C, H, W)``: nothing, one element, odd, wide; at times many channels."""
    least = 0 if empty else 1
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([1, 2])), 1031, 1, draw(st.sampled_from([1, 2]))
    n = draw(st.sampled_from([least, 1, 2, 3, 18]))
    channels = draw(st.sampled_from([1, 2, 3, 6]))
    return n, channels, draw(st.integers(least, 5)), draw(st.integers(least, 7))


@st.composite
def tensors(
    draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, kinds=KINDS
) -> Tensor:
    """A tensor of values of some kind, in some order in memory."""
    values = _values(draw(st.sampled_from(kinds)), shape, draw(st.integers(0, 99)))
    bound = torch.finfo(dtype).max
    if values.isfinite().all():
        values = values.clamp(-bound, bound)
    return _lay_out(values.to(dtype), draw(st.sampled_from(LAYOUTS)))


def _values(kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = x + 1e-3 * torch.sign(x)  # never zero: a sample of zeros is like no other
    odd = torch.rand(shape, generator=generator) < 0.2
    match kind:
        case 'alike':
            return 2 * x + 3
        case 'far':
            return x + 1000
        case 'small':
            return 1e-4 * x
        case 'constant':
            return torch.full_like(x, 1.7)
        case 'zeros':
            return torch.zeros_like(x)
        case 'big':
            return 1e15 * x
        case 'huge':
            return 1e300 * x
        case 'all nan':
            return torch.full_like(x, torch.nan)
        case 'mixed':
            return x.masked_fill(odd, torch.nan).masked_fill(x > 1, torch.inf)
        case 'inf' | '-inf' | 'nan':
            return x.masked_fill(odd, float(kind))
    return x


def _lay_out(x: Tensor, layout: str) -> Tensor:
    """The same shape, and, but where memory is shared, the same values."""
    match layout:
        case 'channels_last':
            return x.contiguous(memory_format=torch.channels_last)
        case 'transposed':
            return x.transpose(2, 3).contiguous().transpose(2, 3)
        case 'channels first':
            return x.transpose(0, 1).contiguous().transpose(0, 1)
        case 'sliced':
            return x.repeat_interleave(2, 3).repeat_interleave(2, 0)[::2, :, :, ::2]
        case 'offset':
            return torch.cat([x.new_ones(1), x.flatten()])[1:].view(x.shape)
        case 'expanded' if x.numel():
            return x[:, :, :1].expand(x.shape)
    return x
