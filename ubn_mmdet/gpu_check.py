"""Checks every norm layer on a GPU, and measures what it costs there.

``python -m ubn_mmdet.gpu_check`` needs PyTorch alone, one GPU and some minutes. It compares
each member of the family, in PyTorch's operations and in the Triton kernels, with the same
layer in float64 on the CPU, in the operations that the tests compare with the definitions.
It captures and compiles a training step, and measures layers against BatchNorm. Results are
written as they come, to ``gpu_check.json`` and, in the end, as a table to ``gpu_check.md``.
It exits with 1 if a check fails, and names it.

Without a GPU (``--device cpu``) it runs what needs none, on small maps: a test of itself.
"""

import argparse
import copy
import functools
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from .layers import BGN, BNET, FAMILY, UBN
from .markdown import markdown_table
from .ops.passes import choose_passes, reference_passes
from .version import __version__

TOLERANCES = {torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
FORMATS = torch.contiguous_format, torch.channels_last
MEASURED: dict[str, Callable[[int], nn.Module]] = {
    'BatchNorm': nn.BatchNorm2d,
    'UBN': UBN,
    'UBN, k=1': lambda c: UBN(c, kernel_size=1),
    'BNET': BNET,
}
COMPARED = 3, 6, 40, 60  # the maps that layers are compared on, (N, C, H, W)
TIMED = (2, 64, 200, 336), (2, 256, 200, 336), (2, 2048, 25, 42), (16, 256, 14, 14)
SECONDS = 0.5  # of each time that is measured
Check = Callable[[], dict]


# --- numbers --------------------------------------------------------------------------


def members() -> dict[str, Callable[[], nn.Module]]:
    """Every member of the family, for six channels, past its warm-up; both gates of UBN."""
    settings: dict[str, dict] = {
        'MABN': {'warmup_steps': 0, 'renorm_steps': 0, 'memory_size': 2},
        'PowerNorm': {'warmup_steps': 0},
        'BatchRenorm': {'plain_steps': 0},
        BGN.__name__: {'num_groups': 3},
    }
    return {
        kind.__name__: functools.partial(kind, 6, **settings.get(kind.__name__, {}))
        for kind in FAMILY
    } | {
        'UBN, k=1': lambda: UBN(6, kernel_size=1),
        'UBN, closed': lambda: UBN(6, condensation_threshold=0.99),
        'UBN, pooled': lambda: UBN(6, condensation_feature='pooled'),
    }


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """A layer with its parameters and statistics away from the start."""
    generator = torch.Generator().manual_seed(7)
    layer = make()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.5)
        layer.get_buffer('running_mean').uniform_(-1, 1, generator=generator)
        layer.get_buffer('running_var').uniform_(0.5, 2, generator=generator)
    return layer


def noise(*shape: int, mean: float = 0.0, seed: int = 0) -> Tensor:
    """Random maps on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(shape, generator=generator)


def step(layer: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Output, gradients and state after a step, by name, in float64 on the CPU."""
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(dy)
    assert x.grad is not None
    result = {'output': y, 'gradient of x': x.grad, **dict(layer.named_buffers())}
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, f'{name} has no gradient'
        result[f'gradient of {name}'] = parameter.grad
    return {name: tensor.detach().double().cpu() for name, tensor in result.items()}


def largest_difference(
    got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float
) -> float:
    """The largest difference, relative to each tensor's largest value.

    Raises:
        AssertionError: If it is above ``tolerance``; names the tensor.
    """
    worst = 0.0
    for name, expected in want.items():
        scale = max(expected.abs().max().item(), 1e-3)
        difference = (got[name] - expected).abs().max().item() / scale
        # nan is not within any tolerance
        assert difference <= tolerance, (
            f'{name} differs by {difference:.2g} of its largest value, '
            f'{tolerance:.2g} allowed'
        )
        worst = max(worst, difference)
    return worst


def compare(device: torch.device, make: Callable[[], nn.Module], passes: str) -> dict:
    """Each dtype, memory format and mode of a layer against float64 on the CPU."""
    worst: dict[str, float] = {}
    for dtype, memory_format, training in product(TOLERANCES, FORMATS, (True, False)):
        # Gradients of a mean would cancel: what is left of them is rounding.
        x, dy = (
            maps.to(dtype, memory_format=memory_format)
            for maps in (noise(*COMPARED, mean=1.0), noise(*COMPARED, seed=1))
        )
        layer = trained(make).train(training)
        with reference_passes():
            want = step(copy.deepcopy(layer).double(), x.double(), dy.double())
        with choose_passes(passes):
            got = step(layer.to(device), x.to(device), dy.to(device))
        difference = largest_difference(got, want, TOLERANCES[dtype])
        name = str(dtype).removeprefix('torch.')
        worst[name] = max(worst.get(name, 0.0), difference)
    return worst


# --- captured and compiled --------------------------------------------------------------


def net(device: torch.device) -> nn.Sequential:
    """Two convolutions, each with a norm behind it, and equal in every call."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), UBN(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, bias=False), UBN(8), nn.ReLU(inplace=True),
    ).to(device)  # fmt: skip


def check_compile(device: torch.device) -> dict:
    """``torch.compile`` in training: the same as without."""
    x, dy = noise(2, 3, 32, 32), noise(2, 8, 28, 28, seed=1)
    x, dy = x.to(device), dy.to(device)
    want = step(net(device), x, dy)
    model = net(device)
    model.compile(fullgraph=True)
    return {'difference': largest_difference(step(model, x, dy), want, 1e-3)}


def check_cuda_graph(device: torch.device) -> dict:
    """A training step that is captured and replayed: nothing waits for the device."""
    x = noise(2, 3, 32, 32).to(device).requires_grad_()
    model, other = net(device), net(device)
    # In place: the model runs three times, and is captured.
    torch.cuda.make_graphed_callables(model, (x,))
    for _ in range(2):
        model(x).square().sum().backward()
    torch.cuda.synchronize()
    for _ in range(5):
        other(x)
    got, want = (
        {name: buffer.double().cpu() for name, buffer in each.named_buffers()}
        for each in (model, other)
    )
    return {'difference': largest_difference(got, want, 1e-4)}


# --- what it costs ----------------------------------------------------------------------


def measure(
    device: torch.device,
    implementations: Sequence[str],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    seconds: float,
) -> dict:
    """Milliseconds of a training step of each layer, in each implementation."""
    x = noise(*shape, mean=1.0).to(device, dtype).requires_grad_()
    times = {}
    for name, make in MEASURED.items():
        ours = name != 'BatchNorm'
        layer = make(shape[1]).to(device)
        timer = Timer('layer(x).sum().backward()', globals={'layer': layer, 'x': x})
        for passes in implementations if ours else implementations[:1]:
            with choose_passes(passes):
                median = timer.blocked_autorange(min_run_time=seconds).median
            times[f'{name}, {passes}' if ours else name] = round(1e3 * median, 4)
    return times


# --- the whole ------------------------------------------------------------------------


def checks(device: torch.device) -> Iterator[tuple[str, Check]]:
    """Name and function of each check, in their order: what is quick and vital first."""
    is_cuda = device.type == 'cuda'
    implementations = (
        ('fused', 'triton') if is_cuda and find_spec('triton') else ('fused',)
    )
    for (name, make), passes in product(members().items(), implementations):
        check = functools.partial(compare, device, make, passes)
        yield f'numbers: {name}, {passes}', check
    if is_cuda:
        yield 'CUDA graph', lambda: check_cuda_graph(device)
    shapes, seconds = (TIMED, SECONDS) if is_cuda else (((2, 4, 6, 5),), 0.0)
    for shape, dtype in product(shapes, (torch.float32, torch.float16)):
        check = functools.partial(
            measure, device, implementations, shape, dtype, seconds
        )
        kind = str(dtype).removeprefix('torch.')
        yield f'layer, ms: {shape}, {kind}', check
    if is_cuda:  # a compiler may take long
        yield 'torch.compile', lambda: check_compile(device)


def run_checks(
    device: torch.device,
    out: Path,
    seconds: float,
    report: Callable[[str], object] = print,
) -> dict:
    """Run all checks; write what there is after each.

    Args:
        device: A GPU, or a CPU for a trial of the checks themselves.
        out: The json file; the table lies beside it.
        seconds: After so many no check is begun; those that are left count as failed.
        report: Takes a line for each check.
    """
    is_cuda = device.type == 'cuda'
    result: dict[str, Any] = {
        'device': torch.cuda.get_device_name(device) if is_cuda else 'CPU',
        'torch': torch.__version__,
        'cuda': torch.version.cuda,
        'ubn_mmdet': __version__,
        'checks': {},
        'failed': {},
        'tracebacks': {},
    }
    start = time.monotonic()
    for what, check in checks(device):
        begun = time.monotonic()
        if begun - start > seconds:
            result['failed'][what] = 'not begun: the time was over'
        else:
            try:
                result['checks'][what] = check()
            except Exception as error:  # whatever a device, a driver, a compiler raises
                result['failed'][what] = f'{type(error).__name__}: {error}'
                result['tracebacks'][what] = traceback.format_exc()
        verdict = 'FAILED' if what in result['failed'] else 'ok'
        report(f'{time.monotonic() - begun:7.1f} s  {verdict:6}  {what}')
        out.write_text(json.dumps(result, indent=1) + '\n')
    out.with_suffix('.md').write_text(table(result))
    return result


def table(result: dict) -> str:
    """The results as Markdown."""
    rows = [
        (what, ' · '.join(f'{key} {value:.3g}' for key, value in values.items()))
        for what, values in result['checks'].items()
    ]
    rows += [
        (what, f'**failed**: {error[:200]}') for what, error in result['failed'].items()
    ]
    return (
        f'{result["device"]}, PyTorch {result["torch"]}, ubn_mmdet {result["ubn_mmdet"]}. '
        "Numbers are the largest difference from float64, relative to each tensor's "
        'largest value.\n\n' + markdown_table(['check', 'result'], rows, words=2) + '\n'
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 if a check failed."""
    parser = argparse.ArgumentParser(
        prog='python -m ubn_mmdet.gpu_check',
        description=(__doc__ or '').split('\n\n')[0],
    )
    parser.add_argument('--device', default='cuda', help='cuda, cuda:1, or cpu')
    parser.add_argument('--out', type=Path, default=Path('gpu_check.json'))
    parser.add_argument(
        '--seconds', type=float, default=480, help='begin no check after'
    )
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == 'cuda' and not torch.cuda.is_available():
        parser.error('PyTorch finds no GPU; --device cpu tries the checks themselves')
    torch.backends.cudnn.allow_tf32 = False  # float32 is compared
    result = run_checks(device, options.out, options.seconds)
    for what, error in result['failed'].items():
        print(f'FAILED {what}: {error}')
    print(
        f'{len(result["checks"])} passed, {len(result["failed"])} failed: {options.out}'
    )
    return 1 if result['failed'] else 0


if __name__ == '__main__':
    raise SystemExit(main())
