"""Checks every norm layer on a GPU, and measures what it costs there.

``python -m ubn_mmdet.gpu_check`` needs PyTorch alone, one GPU and some minutes. It compares
each member of the family, in PyTorch's operations and in the Triton kernels, with the same
layer in float64 on the CPU, in the operations that the tests compare with the definitions;
tries what only a GPU can do; and measures against BatchNorm. Results are written as they
come, to ``gpu_check.json`` and, in the end, as a table to ``gpu_check.md``. It exits with 1
if a check fails, and names it.

Without a GPU (``--device cpu``) it runs what needs none, on small maps: a test of itself.
"""

import argparse
import copy
import functools
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from .layers import BGN, BNET, FAMILY, UBN
from .markdown import markdown_table
from .ops.passes import choose_passes, reference_passes
from .rank_processes import rank_processes
from .version import __version__

TOLERANCES = {torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
FORMATS = torch.contiguous_format, torch.channels_last
# Layers and backbones are measured with these.
MEASURED: dict[str, Callable[[int], nn.Module]] = {
    'BatchNorm': nn.BatchNorm2d,
    'UBN': UBN,
    'UBN, k=1': lambda c: UBN(c, kernel_size=1),
    'BNET': BNET,
}
Norm = Callable[[int], nn.Module]
Check = Callable[[], dict]


class Machine(NamedTuple):
    """Where to run, and how much.

    Attributes:
        device: To run on.
        passes: Implementations to check: ``'fused'``, and ``'triton'`` where it can run.
        size: Of the maps that layers are compared on, ``(N, C, H, W)``.
        shapes: Of the maps that layers are measured on.
        image: Height and width of the images that backbones are measured on.
        seconds: Of a measurement.
    """

    device: torch.device
    passes: tuple[str, ...] = ('fused',)
    size: tuple[int, ...] = (2, 6, 4, 6)
    shapes: tuple[tuple[int, ...], ...] = ((2, 4, 6, 5),)
    image: tuple[int, int] = (32, 32)
    seconds: float = 0.0

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == 'cuda'

    @classmethod
    def of(cls, device: str) -> 'Machine':
        """A GPU, or for a trial of the checks themselves a CPU."""
        if torch.device(device).type != 'cuda':
            return cls(torch.device(device))
        return cls(
            torch.device(device),
            passes=('fused', 'triton') if find_spec('triton') else ('fused',),
            size=(3, 6, 40, 60),
            shapes=(
                (2, 64, 200, 336),
                (2, 256, 200, 336),
                (2, 2048, 25, 42),
                (16, 256, 14, 14),
            ),
            image=(800, 1344),
            seconds=0.5,
        )


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


def maps(*shape: int, seed: int = 0) -> Tensor:
    """Random maps on the CPU, with a mean."""
    return 1 + torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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


def compare(machine: Machine, make: Callable[[], nn.Module], passes: str) -> dict:
    """Each dtype, memory format and mode of a layer against float64 on the CPU."""
    worst: dict[str, float] = {}
    for dtype, memory_format, training in product(TOLERANCES, FORMATS, (True, False)):
        x, dy = (
            maps(*machine.size, seed=seed).to(dtype, memory_format=memory_format)
            for seed in (0, 1)
        )
        layer = trained(make).train(training)
        with reference_passes():
            want = step(copy.deepcopy(layer).double(), x.double(), dy.double())
        with choose_passes(passes):
            device = machine.device
            got = step(layer.to(device), x.to(device), dy.to(device))
        difference = largest_difference(got, want, TOLERANCES[dtype])
        name = str(dtype).removeprefix('torch.')
        worst[name] = max(worst.get(name, 0.0), difference)
    return worst


# --- what surrounds a layer -------------------------------------------------------------


def net(machine: Machine) -> nn.Sequential:
    """Two convolutions, each with a norm behind it, and equal in every call."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), UBN(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, bias=False), UBN(8), nn.ReLU(inplace=True),
    ).to(machine.device)  # fmt: skip


def check_amp(machine: Machine) -> dict:
    """Mixed precision with a scaler: a step that overflows is left out, and no more."""
    device, model = machine.device, net(machine)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10)
    x = maps(2, 3, 32, 32).to(device)
    weight = model[1].get_parameter('weight')
    for i in range(4):
        before, scale = weight.detach().clone(), scaler.get_scale()
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.float16):
            loss = model(x).float().square().mean()
        scaler.scale(loss * (torch.inf if i == 1 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        overflowed = scaler.get_scale() < scale
        assert overflowed == (i == 1), f'step {i}: the scale is {scaler.get_scale()}'
        assert torch.equal(before, weight) == overflowed, f'step {i}: wrong update'
    for name, tensor in model.state_dict().items():
        assert tensor.isfinite().all(), f'{name} is not finite'
    return {'scale': scaler.get_scale()}


def check_compile(machine: Machine) -> dict:
    """``torch.compile`` in training: the same as without."""
    x, dy = maps(2, 3, 32, 32), maps(2, 8, 28, 28, seed=1)
    x, dy = x.to(machine.device), dy.to(machine.device)
    want = step(net(machine), x, dy)
    model = net(machine)
    model.compile(fullgraph=True)
    return {'difference': largest_difference(step(model, x, dy), want, 1e-3)}


def check_cuda_graph(machine: Machine) -> dict:
    """A training step that is captured and replayed: nothing waits for the device."""
    x = maps(2, 3, 32, 32).to(machine.device).requires_grad_()
    model, other = net(machine), net(machine)
    # In place: the model runs three times, and is captured.
    torch.cuda.make_graphed_callables(model, (x,))
    for _ in range(2):
        model(x).square().sum().backward()
    torch.cuda.synchronize()
    start = dict(other.named_buffers())
    for _ in range(5):
        other(x)
    got = {name: t.double().cpu() for name, t in model.named_buffers()}
    want = {name: t.double().cpu() for name, t in start.items()}
    return {'difference': largest_difference(got, want, 1e-4)}


def check_ranks(machine: Machine) -> dict:
    """Two ranks equal one process on both batches: by NCCL, or on a CPU by gloo."""
    layer = trained(lambda: UBN(6, condensation_feature='pooled'))
    x, dy = maps(3, 6, 8, 6), maps(3, 6, 8, 6, seed=1)
    batches = list(zip(x.split([2, 1]), dy.split([2, 1]), strict=True))
    backend = 'nccl' if machine.is_cuda else 'gloo'
    with (
        tempfile.TemporaryDirectory() as folder,
        rank_processes(
            2, _rank, machine.device.type, folder, layer, batches, backend=backend
        ) as wait,
    ):
        while not wait(None):
            pass
        ranks = [torch.load(Path(folder, f'{rank}.pt')) for rank in range(2)]
    with reference_passes():
        want = step(copy.deepcopy(layer).double(), x.double(), dy.double())
    got = {}
    for name in want:
        values = [rank[name] for rank in ranks]
        if name in ('output', 'gradient of x'):
            got[name] = torch.cat(values)
        elif name.startswith('gradient'):
            got[name] = values[0] + values[1]
        else:
            assert torch.equal(*values), f'{name} differs between ranks'
            got[name] = values[0]
    return {'difference': largest_difference(got, want, TOLERANCES[torch.float32])}


def _rank(rank: int, kind: str, folder: str, layer: nn.Module, batches: list) -> None:
    device = torch.device(kind, rank) if kind == 'cuda' else torch.device(kind)
    layer = copy.deepcopy(layer).to(device)  # what is sent here shares its memory
    x, dy = (tensor.to(device) for tensor in batches[rank])
    torch.save(step(layer, x, dy), Path(folder, f'{rank}.pt'))


# --- what it costs ----------------------------------------------------------------------


def measure(machine: Machine, train: Callable[[Norm], Callable[[], object]]) -> dict:
    """Milliseconds of a training step with each norm, in each implementation.

    Args:
        machine: Where.
        train: Makes the step of a model with that norm.
    """
    times = {}
    for name, norm in MEASURED.items():
        ours = name != 'BatchNorm'
        for passes in machine.passes if ours else machine.passes[:1]:
            timer = Timer('train()', globals={'train': train(norm)})
            with choose_passes(passes):
                median = timer.blocked_autorange(min_run_time=machine.seconds).median
            times[f'{name}, {passes}' if ours else name] = round(1e3 * median, 4)
    return times


def check_layer(machine: Machine, shape: tuple[int, ...], dtype: torch.dtype) -> dict:
    """Milliseconds of a training step of one layer."""
    x = maps(*shape).to(machine.device, dtype).requires_grad_()

    def train(norm: Norm) -> Callable[[], object]:
        layer = norm(shape[1]).to(machine.device)
        return lambda: layer(x).sum().backward()

    return measure(machine, train)


def backbone(norm: Norm, depths: tuple[int, ...]) -> nn.Sequential:
    """The convolutions and norms of a ResNet-50, without its shortcuts."""
    layers: list[nn.Module] = []
    inputs = 3

    def add(outputs: int, kernel_size: int, stride: int = 1) -> None:
        nonlocal inputs
        padding = kernel_size // 2
        convolution = nn.Conv2d(
            inputs, outputs, kernel_size, stride, padding, bias=False
        )
        layers.extend([convolution, norm(outputs), nn.ReLU(inplace=True)])
        inputs = outputs

    add(64, 7, 2)
    layers.append(nn.MaxPool2d(3, 2, 1))
    for i, depth in enumerate(depths):
        for j in range(depth):
            add(64 * 2**i, 1)
            add(64 * 2**i, 3, 2 if i and not j else 1)
            add(256 * 2**i, 1)
    return nn.Sequential(*layers)


def check_backbone(machine: Machine) -> dict:
    """Milliseconds of a training step of a backbone on two images, with AMP."""
    x = maps(2, 3, *machine.image).to(machine.device)
    depths = (3, 4, 6, 3) if machine.is_cuda else (1, 1)
    dtype = torch.float16 if machine.is_cuda else torch.bfloat16

    def train(norm: Norm) -> Callable[[], object]:
        model = backbone(norm, depths).to(machine.device)

        def run() -> None:
            with torch.autocast(machine.device.type, dtype):
                model(x).sum().backward()

        return run

    return measure(machine, train)


# --- the whole ------------------------------------------------------------------------


def checks(machine: Machine) -> Iterator[tuple[str, Check]]:
    """Name and function of each check, in their order: what is quick and vital first."""
    for (name, make), passes in product(members().items(), machine.passes):
        yield (
            f'numbers: {name}, {passes}',
            functools.partial(compare, machine, make, passes),
        )
    yield 'AMP with a scaler that overflows once', lambda: check_amp(machine)
    if machine.is_cuda:
        yield 'CUDA graph', lambda: check_cuda_graph(machine)
    for shape, dtype in product(machine.shapes, (torch.float32, torch.float16)):
        kind = str(dtype).removeprefix('torch.')
        yield (
            f'layer, ms: {shape}, {kind}',
            functools.partial(check_layer, machine, shape, dtype),
        )
    yield "ResNet-50's layers, ms", lambda: check_backbone(machine)
    if not machine.is_cuda or torch.cuda.device_count() > 1:
        yield 'two ranks', lambda: check_ranks(machine)
    if machine.is_cuda:  # a compiler may take long
        yield 'torch.compile', lambda: check_compile(machine)


def run_checks(
    machine: Machine, out: Path, seconds: float, report: Callable[[str], object] = print
) -> dict:
    """Run all checks; write what there is after each.

    Args:
        machine: To run on.
        out: The json file; the table lies beside it.
        seconds: After so many no check is begun; those that are left count as failed.
        report: Takes a line for each check.
    """
    name = torch.cuda.get_device_name(machine.device) if machine.is_cuda else 'CPU'
    result: dict[str, Any] = {
        'device': name,
        'torch': torch.__version__,
        'cuda': torch.version.cuda,
        'ubn_mmdet': __version__,
        'checks': {},
        'failed': {},
        'tracebacks': {},
    }
    start = time.monotonic()
    for what, check in checks(machine):
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
    if torch.device(options.device).type == 'cuda' and not torch.cuda.is_available():
        parser.error('PyTorch finds no GPU; --device cpu tries the checks themselves')
    result = run_checks(Machine.of(options.device), options.out, options.seconds)
    for what, error in result['failed'].items():
        print(f'FAILED {what}: {error}')
    print(
        f'{len(result["checks"])} passed, {len(result["failed"])} failed: {options.out}'
    )
    return 1 if result['failed'] else 0


if __name__ == '__main__':
    raise SystemExit(main())
