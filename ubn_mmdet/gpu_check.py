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
import contextlib
import copy
import functools
import json
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from torch import Tensor, nn

from .layers import BGN, BNET, FAMILY, UBN
from .markdown import markdown_table
from .ops.passes import choose_passes, reference_passes
from .version import __version__

TOLERANCES = {torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
FORMATS = {
    'contiguous': torch.contiguous_format,
    'channels_last': torch.channels_last,
}
# Layers and backbones are measured with these.
MEASURED: dict[str, Callable[[int], nn.Module]] = {
    'BatchNorm': nn.BatchNorm2d,
    'UBN': UBN,
    'UBN, k=1': lambda c: UBN(c, kernel_size=1),
    'BNET': BNET,
}


class Machine(NamedTuple):
    """Where to run, and how much.

    Attributes:
        device: To run on.
        passes: Implementations to check: ``'fused'``, and ``'triton'`` where it can run.
        shapes: Of the maps that layers are measured on, ``(N, C, H, W)``.
        image: Height and width of the images that backbones are measured on.
        turns: Of a measurement.
    """

    device: torch.device
    passes: tuple[str, ...]
    shapes: tuple[tuple[int, int, int, int], ...]
    image: tuple[int, int]
    turns: int

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == 'cuda'

    @classmethod
    def of(cls, device: str) -> 'Machine':
        """A GPU, or for a trial of the checks themselves a CPU."""
        has_triton = find_spec('triton') is not None
        if torch.device(device).type != 'cuda':
            interprets = has_triton and os.environ.get('TRITON_INTERPRET') == '1'
            passes = ('fused', 'triton') if interprets else ('fused',)
            return cls(torch.device(device), passes, ((2, 4, 6, 5),), (32, 32), 2)
        passes = ('fused', 'triton') if has_triton else ('fused',)
        shapes = (
            (2, 64, 200, 336),
            (2, 256, 200, 336),
            (2, 2048, 25, 42),
            (16, 256, 14, 14),
        )
        return cls(torch.device(device), passes, shapes, (800, 1344), 15)


# --- numbers --------------------------------------------------------------------------


def members() -> dict[str, Callable[[], nn.Module]]:
    """Every member of the family, for six channels, past its warm-up; both gates of UBN."""
    past = {'MABN': {'warmup_steps': 0, 'renorm_steps': 0, 'memory_size': 2}}
    past |= {'PowerNorm': {'warmup_steps': 0}, 'BatchRenorm': {'plain_steps': 0}}
    made: dict[str, Callable[[], nn.Module]] = {}
    for kind in FAMILY:
        own: dict[str, Any] = past.get(kind.__name__, {})
        if kind is BGN:
            own = {'num_groups': 3}
        made[kind.__name__] = functools.partial(kind, 6, **own)
    made['UBN, k=1'] = functools.partial(UBN, 6, kernel_size=1)
    made['UBN, closed'] = lambda: _with_condensation(UBN(6), 0.05)
    made['UBN, pooled'] = lambda: UBN(6, condensation_feature='pooled')
    return made


def _with_condensation(layer: nn.Module, value: float) -> nn.Module:
    layer.get_buffer('condensation').fill_(value)
    return layer


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


def maps(
    *shape: int,
    seed: int = 0,
    mean: float = 1.0,
    dtype: torch.dtype = torch.float32,
    format: str = 'contiguous',
) -> Tensor:
    """Random maps on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    x = mean + torch.randn(shape, generator=generator)
    return x.to(dtype).contiguous(memory_format=FORMATS[format])


def step(layer: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Output, gradients and state after a step, by name, in float64 on the CPU."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(dy)
    assert x.grad is not None
    result = {'output': y, 'gradient of x': x.grad, **dict(layer.named_buffers())}
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, f'{name} has no gradient'
        result[f'gradient of {name}'] = parameter.grad
    return {name: tensor.detach().double().cpu() for name, tensor in result.items()}


def assert_close(
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


def check_numbers(machine: Machine) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Each member, dtype, memory format and mode against float64 on the CPU."""
    for name, make in members().items():
        for passes in machine.passes:
            check = functools.partial(_compare_all, machine, make, passes)
            yield f'numbers: {name}, {passes}', check


def _compare_all(machine: Machine, make: Callable[[], nn.Module], passes: str) -> dict:
    return {
        str(dtype).removeprefix('torch.'): max(
            _compare(machine, make, passes, dtype, format, training)
            for format in FORMATS
            for training in (True, False)
        )
        for dtype in TOLERANCES
    }


def _compare(
    machine: Machine,
    make: Callable[[], nn.Module],
    passes: str,
    dtype: torch.dtype,
    format: str,
    training: bool,
) -> float:
    size = (3, 6, 40, 60) if machine.is_cuda else (2, 6, 4, 6)
    x = maps(*size, dtype=dtype, format=format)
    # Gradients with a mean would cancel, and rounding would be left of them.
    dy = maps(*size, seed=1, mean=0.0, dtype=dtype, format=format)
    layer = trained(make).train(training)
    reference = copy.deepcopy(layer).double()
    with reference_passes():
        want = step(reference, x.double(), dy.double())
    with choose_passes(passes):
        got = step(
            layer.to(machine.device), x.to(machine.device), dy.to(machine.device)
        )
    return assert_close(got, want, TOLERANCES[dtype])


# --- what surrounds a layer -------------------------------------------------------------


class Net(nn.Sequential):
    """Two convolutions, each followed by a norm."""

    def __init__(self, norm: Callable[[int], nn.Module] = UBN) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 8, 3, 1, 1, bias=False), norm(8), nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, 1, 1, bias=False), norm(8), nn.ReLU(inplace=True),
        )  # fmt: skip


def check_amp(machine: Machine) -> dict:
    """Mixed precision with a scaler: a step that overflows is left out, and no more."""
    device = machine.device
    net = Net().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, growth_interval=1000)
    x = maps(2, 3, 32, 32).to(device)
    weight = net[1].get_parameter('weight')
    for i in range(4):
        before, scale = weight.detach().clone(), scaler.get_scale()
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.float16):
            loss = net(x).float().square().mean()
        scaler.scale(loss * (torch.inf if i == 1 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        overflowed = scaler.get_scale() < scale
        assert overflowed == (i == 1), (
            f'step {i}: the scale went to {scaler.get_scale()}'
        )
        assert torch.equal(before, weight) == overflowed, f'step {i}: wrong update'
    for name, tensor in net.state_dict().items():
        assert tensor.isfinite().all(), f'{name} is not finite'
    return {'scale': scaler.get_scale()}


def check_checkpointing(machine: Machine) -> dict:
    """Activation checkpointing, in both modes: same gradients, and the state moves once."""
    results: list[dict[str, Tensor]] = []
    for reentrant in (None, True, False):
        x = maps(2, 3, 16, 16).to(machine.device).requires_grad_()
        net = Net().to(machine.device)
        if reentrant is None:
            y = net(x)
        else:
            y = cp.checkpoint(net, x, use_reentrant=reentrant)
        y.square().sum().backward()
        assert x.grad is not None
        tensors = {'gradient of x': x.grad, **dict(net.named_buffers())}
        results.append({name: t.double().cpu() for name, t in tensors.items()})
    worst = max(assert_close(got, results[0], 1e-4) for got in results[1:])
    return {'difference': worst}


def check_compile(machine: Machine) -> dict:
    """``torch.compile`` in training: the same as without."""
    x = maps(2, 3, 32, 32).to(machine.device)
    net = Net().to(machine.device)
    again = copy.deepcopy(net)
    results = []
    for module, model in ((net, net), (again, torch.compile(again, fullgraph=True))):
        for _ in range(2):
            module.zero_grad()
            model(x).square().sum().backward()
        tensors: dict[str, Any] = dict(module.named_buffers())
        tensors |= {f'gradient of {n}': p.grad for n, p in module.named_parameters()}
        results.append({name: t.double().cpu() for name, t in tensors.items()})
    return {'difference': assert_close(results[1], results[0], 1e-3)}


def check_cuda_graph(machine: Machine) -> dict:
    """A training step that is captured and replayed: nothing waits for the device."""
    device = machine.device
    x = maps(2, 3, 32, 32).to(device)
    net = Net().to(device)
    other = copy.deepcopy(net)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            net.zero_grad()
            net(x).square().sum().backward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    net.zero_grad()
    with torch.cuda.graph(graph):
        net(x).square().sum().backward()
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    for _ in range(5):  # a capture does not run
        other(x)
    names = dict(other.named_buffers())
    got = {name: t.double().cpu() for name, t in net.named_buffers() if name in names}
    want = {name: t.double().cpu() for name, t in names.items()}
    return {'difference': assert_close(got, want, 1e-4)}


def check_ranks(machine: Machine) -> dict:
    """Two ranks equal one process on both batches: by NCCL, or on a CPU by gloo."""
    backend = 'nccl' if machine.is_cuda else 'gloo'
    layer = trained(lambda: UBN(6, condensation_feature='pooled'))
    x, dy = maps(3, 6, 8, 6), maps(3, 6, 8, 6, seed=1, mean=0.0)
    batches = list(zip(x.split([2, 1]), dy.split([2, 1]), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (backend, folder, layer, batches), nprocs=2)
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
    return {'difference': assert_close(got, want, TOLERANCES[torch.float32])}


def _rank(
    rank: int, backend: str, folder: str, layer: nn.Module, batches: list
) -> None:
    device = torch.device('cuda', rank) if backend == 'nccl' else torch.device('cpu')
    if backend == 'nccl':
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend, init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    try:
        layer = copy.deepcopy(layer).to(device)  # what is spawned shares its memory
        x, dy = (tensor.to(device) for tensor in batches[rank])
        torch.save(step(layer, x, dy), Path(folder, f'{rank}.pt'))
    finally:
        dist.destroy_process_group()


# --- what it costs ----------------------------------------------------------------------


def train_once(module: nn.Module, x: Tensor) -> None:
    """A forward and a backward."""
    module.zero_grad(set_to_none=True)
    module(x).sum().backward()


def measure(machine: Machine, runs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Milliseconds of each, the median of interleaved turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(3):
            run()
    for _ in range(machine.turns):
        for name, run in runs.items():
            _synchronize(machine)
            start = time.perf_counter()
            run()
            _synchronize(machine)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 4) for name, values in times.items()}


def _synchronize(machine: Machine) -> None:
    if machine.is_cuda:
        torch.cuda.synchronize(machine.device)


def _runs(machine: Machine, make: Callable[[str], Callable[[], None]]) -> dict:
    """A run of each measured norm, and of each implementation of our own."""
    runs = {}
    for norm in MEASURED:
        if norm == 'BatchNorm':
            runs[norm] = make(norm)
            continue
        # Interpreted kernels are not worth measuring.
        for passes in machine.passes if machine.is_cuda else ('fused',):
            runs[f'{norm}, {passes}'] = choose_passes(passes)(make(norm))
    return runs


def _layer_runs(machine: Machine, x: Tensor) -> dict:
    """The runs of one layer on ``x``, ``(N, C, H, W)``, which is on the device."""

    def make(norm: str) -> Callable[[], None]:
        layer = MEASURED[norm](x.shape[1]).to(machine.device)
        return lambda: train_once(layer, x)

    return _runs(machine, make)


def check_layers(machine: Machine) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Milliseconds of a training step of one layer."""
    for shape in machine.shapes:
        for dtype in (
            (torch.float32, torch.float16) if machine.is_cuda else (torch.float32,)
        ):
            x = maps(*shape, dtype=dtype)

            def run(x: Tensor = x) -> dict:
                there = x.to(machine.device).requires_grad_()
                return measure(machine, _layer_runs(machine, there))

            kind = str(dtype).removeprefix('torch.')
            yield f'layer, ms: {shape}, {kind}', run


def check_launches(machine: Machine) -> dict:
    """Kernels that the GPU runs in a layer's training step."""
    x = maps(2, 64, 50, 84).to(machine.device).requires_grad_()
    counts = {}

    for name, run in _layer_runs(machine, x).items():
        for _ in range(2):
            run()
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            run()
            _synchronize(machine)
        counts[name] = sum(event.count for event in profile.key_averages())
    return counts


def check_memory(machine: Machine) -> dict:
    """MiB at the peak of a layer's training step, beside its input and parameters."""
    x = maps(2, 256, 200, 336).to(machine.device).requires_grad_()
    peaks = {}

    for name, run in _layer_runs(machine, x).items():
        run()
        x.grad = None
        before = torch.cuda.memory_allocated(machine.device)
        torch.cuda.reset_peak_memory_stats(machine.device)
        run()
        peak = torch.cuda.max_memory_allocated(machine.device)
        peaks[name] = round((peak - before) / 2**20, 1)
    return peaks


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions."""

    def __init__(
        self, norm: Callable[[int], nn.Module], inputs: int, width: int, stride: int
    ) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn1, self.bn2, self.bn3 = norm(width), norm(width), norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, 4 * width, H / stride, W / stride)``."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x), inplace=True)


def resnet50(
    norm: Callable[[int], nn.Module], depths: tuple = (3, 4, 6, 3)
) -> nn.Module:
    """The backbone of a ResNet-50."""
    stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    layers = [stem, norm(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for i, depth in enumerate(depths):
        for j in range(depth):
            stride = 2 if i and not j else 1
            layers.append(Bottleneck(norm, inputs, 64 * 2**i, stride))
            inputs = 4 * 64 * 2**i
    return nn.Sequential(*layers)


def check_backbone(machine: Machine) -> dict:
    """Milliseconds of a training step of a ResNet-50 backbone on two images, with AMP."""
    x = maps(2, 3, *machine.image).to(machine.device)
    depths = (3, 4, 6, 3) if machine.is_cuda else (1, 1, 1, 1)

    def make(norm: str) -> Callable[[], None]:
        model = resnet50(MEASURED[norm], depths).to(machine.device)

        def run() -> None:
            dtype = torch.float16 if machine.is_cuda else torch.bfloat16
            with torch.autocast(machine.device.type, dtype):
                train_once(model, x)

        return run

    return measure(machine, _runs(machine, make))


# --- the whole ------------------------------------------------------------------------


def checks(machine: Machine) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Name and function of each check, in their order: what is quick and vital first."""
    yield from check_numbers(machine)
    everywhere = {
        'AMP with a scaler that overflows once': check_amp,
        'activation checkpointing': check_checkpointing,
    }
    on_gpu = {
        'CUDA graph': check_cuda_graph,
        'launches of a training step': check_launches,
        'memory of a training step, MiB': check_memory,
    }
    if machine.is_cuda:
        everywhere |= on_gpu
    for name, check in everywhere.items():
        yield name, functools.partial(check, machine)
    yield from check_layers(machine)
    yield 'ResNet-50 backbone, ms', functools.partial(check_backbone, machine)
    if not machine.is_cuda or torch.cuda.device_count() > 1:
        yield 'two ranks', functools.partial(check_ranks, machine)
    if machine.is_cuda:  # a compiler may take long
        yield 'torch.compile', functools.partial(check_compile, machine)


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
                result.setdefault('tracebacks', {})[what] = traceback.format_exc()
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
    parser.add_argument(
        '--device', default='cuda', help='cuda, cuda:1 or cpu (%(default)s)'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('gpu_check.json'),
        help='the JSON file to write, with a table beside it as .md (%(default)s)',
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=480,
        help='start no check after so many seconds (%(default)g)',
    )
    options = parser.parse_args(arguments)
    if torch.device(options.device).type == 'cuda' and not torch.cuda.is_available():
        parser.error('PyTorch finds no GPU; --device cpu tries the checks themselves')
    torch.backends.cudnn.allow_tf32 = False  # float32 is compared
    with contextlib.suppress(RuntimeError):  # has been set
        mp.set_start_method('spawn')
    result = run_checks(Machine.of(options.device), options.out, options.seconds)
    for what, error in result['failed'].items():
        print(f'FAILED {what}: {error}')
    print(
        f'{len(result["checks"])} passed, {len(result["failed"])} failed: {options.out}'
    )
    return 1 if result['failed'] else 0


if __name__ == '__main__':
    raise SystemExit(main())
