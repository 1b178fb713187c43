"""What the Triton kernels move between a GPU and its memory: counted, not measured.

The kernels are called for tensors without data, and every launch noted with its tensors.
A launch reads what it is given once and writes its results once; what it reads again, as
a convolution does with its neighbours, comes from a cache. Bytes over a GPU's bandwidth
are a lower bound of the time, **a prediction**.

``python -m ubn_mmdet.bench.traffic`` prints the tables of docs/performance.md.
"""

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..markdown import markdown_table
from ..ops.closed_form import closed_form
from ..ops.coefficients import Form, Learnt
from ..ops.normalizer import Averages, OfBatch
from .layers import R50_FPN

BANDWIDTHS = {  # bytes a second, by the makers' data sheets
    'H100 SXM': 3.35e12,
    'A100 80 GB': 2.04e12,
    'A100 40 GB': 1.56e12,
}
# Tensors that a kernel changes: it reads them and writes them.
MOVED = ('running_mean', 'running_var', 'batches', 'condensation')
# Where a kernel's results go; all other tensors that it is given it reads.
RESULTS = {
    '_moments_of_parts': ('parts', 'products'),
    '_moments_of_maps': ('result', 'pairs'),
    '_apply': ('y',),
    '_sums_of_parts': ('parts',),
    '_sums_of_parts_with_kernel': ('parts',),
    '_sums_of_maps': ('of_maps', 'of_kernel'),
    '_gradient': ('dx',),
    '_coefficients': (
        *(
            'mu_',
            'var_',
            'is_open_',
            'pivot_',
            'weight_',
            'bias_',
            'sigmoid_',
            'kernel_',
        ),
        *MOVED,
    ),
    '_gradients': (
        *('weight_', 'bias_', 'centering_', 'scaling_', 'level_'),
        *('scale_', 'slope_', 'offset_'),
    ),
}
DIRECTIONS = 'forward', 'backward'


def layer_traffic(
    shape: tuple[int, ...],
    kernel_size: int = 1,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> dict[str, list[dict[str, Any]]]:
    """Bytes of each launch of a UBN layer in training.

    Args:
        shape: Of the input, ``(N, C, H, W)``.
        kernel_size: Of the depthwise kernel; 1 for none.
        dtype: Of the input.
        memory_format: Of the input.

    Returns:
        For each of ``DIRECTIONS`` the launches in their order: ``kernel``, ``programs``,
        and bytes by tensor in ``reads`` and ``writes``.

    Raises:
        ImportError: Without Triton.
        ValueError: For more samples or channels than the kernels take.
    """
    from ..ops import triton_steps
    from ..ops.triton_kernels.launch import noting

    c = shape[1]
    x = torch.empty(shape, dtype=dtype, device='meta', memory_format=memory_format)
    dy = torch.empty_like(x)
    of_channel = {name: torch.empty(c, device='meta') for name in Learnt._fields}
    learnt = Learnt(**of_channel)._replace(spatial_weight=None)
    if kernel_size > 1:
        spatial = torch.empty(c, kernel_size, kernel_size, device='meta')
        learnt = learnt._replace(spatial_weight=spatial)
    averages = Averages(
        mean=torch.empty(c, device='meta'),
        var=torch.empty(c, device='meta'),
        batches=torch.empty((), dtype=torch.long, device='meta'),
        momentum=0.1,
        moves=True,
        condensation=torch.empty((), device='meta'),
    )
    of_batch = OfBatch(_without_kernel, x.numel() // c, averages=averages)
    form = Form(1e-5, needs_gram=True)
    with noting() as forward:
        y = closed_form(x.requires_grad_(), of_batch, learnt, form, triton_steps)
    with noting() as backward:
        y.backward(dy)
    return {
        direction: [launch_traffic(launch) for launch in launches]
        for direction, launches in zip(DIRECTIONS, (forward, backward), strict=True)
    }


def _without_kernel(*_: Any) -> NoReturn:
    raise ValueError('no kernel takes the (N, C) tensors of that shape')


def launch_traffic(launch: Any) -> dict[str, Any]:
    """Bytes of one launch, as ``noting`` notes it; each of its tensors counts once."""
    reads: dict[str, int] = {}
    writes: dict[str, int] = {}
    seen: set[int] = set()
    # A tensor that is there stands for what is absent, and is moved once: those that are
    # read come first.
    arguments = launch.arguments.items()
    results = RESULTS[launch.kernel]
    for name, tensor in sorted(arguments, key=lambda item: item[0] in results):
        if not isinstance(tensor, Tensor) or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if name in results:
            writes[name] = distinct_bytes(tensor)
        if name not in results or name in MOVED:
            reads[name] = distinct_bytes(tensor)
    return {
        'kernel': launch.kernel,
        'programs': launch.programs,
        'reads': reads,
        'writes': writes,
    }


def distinct_bytes(tensor: Tensor) -> int:
    """Of its elements, those that an expansion repeats counted once."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count


def total_bytes(launches: Iterable[dict[str, Any]]) -> int:
    """Bytes read and written by launches."""
    return sum(
        sum(launch[what].values())
        for launch in launches
        for what in ('reads', 'writes')
    )


def batchnorm_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, int]:
    """What BatchNorm moves: forward two reads and a write, backward four and one."""
    x = torch.empty(shape, dtype=dtype, device='meta')
    return {'forward': 3 * distinct_bytes(x), 'backward': 5 * distinct_bytes(x)}


def rows(dtype: torch.dtype) -> list[dict[str, Any]]:
    """For each shape of R50-FPN: bytes of a step, and its times by bandwidth, in ms."""
    result = []
    for name, shape in R50_FPN.items():
        row: dict[str, Any] = {'name': f'{name} {shape}'}
        row['bytes'] = {'BatchNorm': sum(batchnorm_bytes(shape, dtype).values())}
        for k in (1, 3):
            launches = layer_traffic(shape, k, dtype)
            row['bytes'][f'UBN k={k}'] = sum(map(total_bytes, launches.values()))
        row['predicted ms'] = {
            gpu: {norm: 1e3 * count / speed for norm, count in row['bytes'].items()}
            for gpu, speed in BANDWIDTHS.items()
        }
        result.append(row)
    return result


def launch_table(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> str:
    """A Markdown table of the launches for an input of that shape."""
    lines = []
    for k in (1, 3):
        for direction, launches in layer_traffic(shape, k, dtype).items():
            for launch in launches:
                moved = [
                    ', '.join(f'`{name}` {size:,}' for name, size in sizes.items())
                    for sizes in (launch['reads'], launch['writes'])
                ]
                lines.append((f'k={k}, {direction}', f'`{launch["kernel"]}`', *moved))
    header = ('', 'kernel', 'reads, bytes', 'writes, bytes')
    return markdown_table(header, lines, words=4)


def time_table(dtype: torch.dtype = torch.float32) -> str:
    """A Markdown table: bytes over BatchNorm's, and the least milliseconds of a step."""
    header = ['', 'BatchNorm, MB', 'UBN k=1 / BatchNorm', 'UBN k=3 / BatchNorm']
    header += [f'{gpu}, ms' for gpu in BANDWIDTHS]
    lines = []
    for row in rows(dtype):
        base, *sizes = row['bytes'].values()
        line = [row['name'], f'{base / 1e6:.1f}', *(f'{s / base:.3f}' for s in sizes)]
        for times in row['predicted ms'].values():
            line.append(' / '.join(f'{time:.3f}' for time in times.values()))
        lines.append(line)
    return markdown_table(header, lines)


def main() -> None:
    """Print the tables."""
    print(launch_table(R50_FPN['layer3']))
    print()
    print(time_table())


if __name__ == '__main__':
    main()
