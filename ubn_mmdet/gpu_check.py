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
import itertools
import json
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from torch import Tensor, nn

from .layers import BGN, FAMILY, MABN, UBN, BatchRenorm, PowerNorm
from .machine import describe_machine
from .markdown import markdown_table
from .measuring import (
    Norm,
    Step,
    count_launches,
    layer_steps,
    passes_on,
    steps_of_norms,
    time_in_turns,
)
from .ops.passes import choose_passes, reference_passes
from .rank_processes import process_group
from .version import __version__

TOLERANCES = {torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
FORMATS = torch.contiguous_format, torch.channels_last
# Layers are measured on maps of these shapes, ``(N, C, H, W)``.
SHAPES = (2, 64, 200, 336), (2, 256, 200, 336), (2, 2048, 25, 42), (16, 256, 14, 14)
SMALL_SHAPES = ((2, 4, 6, 5),)


def on_gpu(device: torch.device) -> bool:
    """Whether a device is a GPU. On a CPU the checks are only tried, and are small."""
    return device.type == 'cuda'


# --- numbers --------------------------------------------------------------------------


def members() -> dict[str, nn.Module]:
    """Every member of the family, for six channels, past its warm-up; both gates of UBN."""
    options: dict[Any, dict[str, Any]] = {
        MABN: {'warmup_steps': 0, 'renorm_steps': 0, 'memory_size': 2},
        PowerNorm: {'warmup_steps': 0},
        BatchRenorm: {'plain_steps': 0, 'r_steps': 0, 'd_steps': 0},
        BGN: {'num_groups': 3},
    }
    made: dict[str, nn.Module] = {
        kind.__name__: kind(6, **options.get(kind, {})) for kind in FAMILY
    }
    made['UBN, k=1'] = UBN(6, kernel_size=1)
    made['UBN, closed'] = UBN(6)
    made['UBN, closed'].get_buffer('condensation').fill_(0.05)
    made['UBN, pooled'] = UBN(6, condensation_feature='pooled')
    return {name: moved_from_start(layer) for name, layer in made.items()}


@torch.no_grad()
def moved_from_start(layer: nn.Module) -> nn.Module:
    """The layer, with its parameters and statistics away from the start."""
    generator = torch.Generator().manual_seed(7)
    for parameter in layer.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.5)
    for name, buffer in layer.named_buffers():
        if name in ('running_mean', 'running_gradient'):
            buffer.uniform_(-1, 1, generator=generator)
        elif name == 'running_var' or name.endswith('_memory'):
            buffer.uniform_(0.5, 2, generator=generator)
        elif name.startswith('batches_'):
            buffer.fill_(50)  # more than any memory holds
    return layer


def maps(*shape: int, seed: int = 0, mean: float = 1.0) -> Tensor:
    """Random maps on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(shape, generator=generator)


def step(
    layer: nn.Module, x: Tensor, dy: Tensor | None = None, call: Callable | None = None
) -> dict[str, Tensor]:
    """Output, gradients and state after a step, by name, in float64 on the CPU.

    Without ``dy``, the output's gradient is the output. ``call`` may compute the output in
    the layer's place.
    """
    x = x.detach().requires_grad_()
    layer.zero_grad()
    y = (call or layer)(x)
    y.backward(y.detach() if dy is None else dy)
    assert x.grad is not None
    result = {'output': y, 'gradient of x': x.grad, **dict(layer.named_buffers())}
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, f'{name} has no gradient'
        result[f'gradient of {name}'] = parameter.grad
    return as_double(result)


def as_double(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float64 on the CPU."""
    return {name: tensor.detach().double().cpu() for name, tensor in tensors.items()}


def assert_close(
    got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float
) -> float:
    """The largest difference, relative to each tensor's largest value, if allowed."""
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


def check_numbers(device: torch.device, layer: nn.Module, passes: str) -> dict:
    """In each dtype, memory format and mode, against float64 on the CPU."""
    size = (3, 6, 40, 60) if on_gpu(device) else (2, 6, 4, 6)
    worst: dict[str, float] = {}
    for dtype, form, training in itertools.product(TOLERANCES, FORMATS, (True, False)):
        x = maps(*size).to(dtype, memory_format=form)
        # Gradients with a mean would cancel, and rounding would be left of them.
        dy = maps(*size, seed=1, mean=0.0).to(dtype, memory_format=form)
        layer.train(training)
        with reference_passes():
            want = step(copy.deepcopy(layer).double(), x.double(), dy.double())
        with choose_passes(passes):
            there = copy.deepcopy(layer).to(device)
            got = step(there, x.to(device), dy.to(device))
        difference = assert_close(got, want, TOLERANCES[dtype])
        name = str(dtype).removeprefix('torch.')
        worst[name] = max(difference, worst.get(name, 0.0))
    return worst


# --- what surrounds a layer -------------------------------------------------------------


def small_net() -> nn.Sequential:
    """Two convolutions, each followed by a UBN."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), UBN(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, 1, 1, bias=False), UBN(8), nn.ReLU(inplace=True),
    )  # fmt: skip


def check_amp(device: torch.device) -> dict:
    """Mixed precision with a scaler: a step that overflows is left out, and no more."""
    net = small_net().to(device)
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


def check_checkpointing(device: torch.device) -> dict:
    """Activation checkpointing, in both modes: same gradients, and the state moves once."""
    x = maps(2, 3, 16, 16).to(device)
    want = step(small_net().to(device), x)
    worst = 0.0
    for reentrant in (True, False):
        net = small_net().to(device)
        call = functools.partial(cp.checkpoint, net, use_reentrant=reentrant)
        worst = max(worst, assert_close(step(net, x, call=call), want, 1e-4))
    return {'difference': worst}


def check_compile(device: torch.device) -> dict:
    """``torch.compile`` in training: the same as without."""
    x = maps(2, 3, 32, 32).to(device)
    net, again = small_net().to(device), small_net().to(device)
    compiled = torch.compile(again, fullgraph=True)
    for _ in range(2):
        want, got = step(net, x), step(again, x, call=compiled)
    del want['gradient of x']  # a single ReLU that flips by rounding would show in it
    return {'difference': assert_close(got, want, 1e-3)}


def check_cuda_graph(device: torch.device) -> dict:
    """A training step that is captured and replayed: nothing waits for the device."""
    x = maps(2, 3, 32, 32).to(device)
    net = small_net().to(device)
    other = copy.deepcopy(net)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            train_once(net, x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    net.zero_grad()
    with torch.cuda.graph(graph):
        train_once(net, x)
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    for _ in range(5):  # a capture does not run
        other(x)
    got, want = (as_double(dict(each.named_buffers())) for each in (net, other))
    return {'difference': assert_close(got, want, 1e-4)}


def check_ranks(device: torch.device) -> dict:
    """Two ranks equal one process on both batches: by NCCL, or on a CPU by gloo."""
    backend = 'nccl' if on_gpu(device) else 'gloo'
    layer = moved_from_start(UBN(6, condensation_feature='pooled'))
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
    device = torch.device('cpu')
    if backend == 'nccl':
        device = torch.device('cuda', rank)
        torch.cuda.set_device(device)
    with process_group(rank, 2, f'{folder}/store', backend=backend):
        layer = copy.deepcopy(layer).to(device)  # what is spawned shares its memory
        x, dy = (tensor.to(device) for tensor in batches[rank])
        torch.save(step(layer, x, dy), Path(folder, f'{rank}.pt'))


# --- what it costs ----------------------------------------------------------------------


def train_once(module: nn.Module, x: Tensor) -> None:
    """A forward and a backward."""
    module.zero_grad()
    module(x).sum().backward()


def measure(device: torch.device, steps: Mapping[str, Step]) -> dict[str, float]:
    """Milliseconds of each step, the median of interleaved turns."""
    times = time_in_turns(steps, turns=15 if on_gpu(device) else 2)
    return {name: round(1e3 * statistics.median(times[name]), 4) for name in times}


def check_layer(device: torch.device, shape: tuple, dtype: torch.dtype) -> dict:
    """Milliseconds of a training step of one layer."""
    return measure(device, layer_steps(maps(*shape).to(device, dtype)))


def check_launches(device: torch.device) -> dict:
    """Kernels that the GPU runs in a layer's training step."""
    steps = layer_steps(maps(2, 64, 50, 84).to(device))
    return {name: count_launches(run, device) for name, run in steps.items()}


def check_memory(device: torch.device) -> dict:
    """MiB at the peak of a layer's training step, beside its input and parameters."""
    peaks = {}
    for name, run in layer_steps(maps(2, 256, 200, 336).to(device)).items():
        run()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        peak = torch.cuda.max_memory_allocated(device)
        peaks[name] = round((peak - before) / 2**20, 1)
    return peaks


class Residual(nn.Sequential):
    """ResNet's block: a ReLU of the sum of a branch and a shortcut, its two members."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to what both give for it."""
        branch, shortcut = self
        return F.relu(branch(x) + shortcut(x), inplace=True)


def resnet50(norm: Norm, depths: tuple[int, ...] = (3, 4, 6, 3)) -> nn.Module:
    """The backbone of a ResNet-50."""

    def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> list:
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        return [conv, norm(outputs)]

    relu = nn.ReLU(inplace=True)
    layers = [*convolution(3, 64, 7, 2), relu, nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for i, depth in enumerate(depths):
        width, outputs = 64 * 2**i, 256 * 2**i
        for j in range(depth):
            stride = 2 if i and not j else 1
            branch = [
                *(*convolution(inputs, width, 1), relu),
                *(*convolution(width, width, 3, stride), relu),
                *convolution(width, outputs, 1),
            ]
            # A shortcut without layers gives what it gets.
            shortcut = [] if j else convolution(inputs, outputs, 1, stride)
            layers.append(Residual(nn.Sequential(*branch), nn.Sequential(*shortcut)))
            inputs = outputs
    return nn.Sequential(*layers)


def check_backbone(device: torch.device) -> dict:
    """Milliseconds of a training step of a ResNet-50 backbone on two images, with AMP."""
    size, depths, dtype = (32, 32), (1, 1, 1, 1), torch.bfloat16
    if on_gpu(device):
        size, depths, dtype = (800, 1344), (3, 4, 6, 3), torch.float16
    x = maps(2, 3, *size).to(device)

    def make(norm: Norm) -> Step:
        model = resnet50(norm, depths).to(device)
        return torch.autocast(device.type, dtype)(lambda: train_once(model, x))

    return measure(device, steps_of_norms(make, device))


# --- the whole ------------------------------------------------------------------------


def checks(device: torch.device) -> dict[str, Callable[[], dict]]:
    """Each check by its name, in their order: what is quick and vital first."""
    found: dict[str, Callable[[], dict]] = {}

    def add(name: str, check: Callable[..., dict], *more: object) -> None:
        found[name] = functools.partial(check, device, *more)

    for name, layer in members().items():
        for passes in passes_on(device):
            add(f'numbers: {name}, {passes}', check_numbers, layer, passes)
    add('AMP with a scaler that overflows once', check_amp)
    add('activation checkpointing', check_checkpointing)
    if on_gpu(device):
        add('CUDA graph', check_cuda_graph)
        add('launches of a training step', check_launches)
        add('memory of a training step, MiB', check_memory)
    for shape in SHAPES if on_gpu(device) else SMALL_SHAPES:
        add(f'layer, ms: {shape}, float32', check_layer, shape, torch.float32)
        if on_gpu(device):
            add(f'layer, ms: {shape}, float16', check_layer, shape, torch.float16)
    add('ResNet-50 backbone, ms', check_backbone)
    if not on_gpu(device) or torch.cuda.device_count() > 1:
        add('two ranks', check_ranks)
    if on_gpu(device):
        add('torch.compile', check_compile)  # a compiler may take long
    return found


def run_checks(device: torch.device, out: Path, seconds: float) -> dict:
    """Run all checks; print a line for each, and write what there is after it.

    Args:
        device: To run on.
        out: The json file; the table lies beside it.
        seconds: After so many no check is begun; those that are left count as failed.
    """
    result: dict[str, Any] = {
        **describe_machine(device),
        'cuda': torch.version.cuda,
        'ubn_mmdet': __version__,
        'checks': {},
        'failed': {},
    }
    start = time.monotonic()
    for what, check in checks(device).items():
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
        print(f'{time.monotonic() - begun:7.1f} s  {verdict:6}  {what}', flush=True)
        out.write_text(json.dumps(result, indent=1) + '\n')
    out.with_suffix('.md').write_text(table(result))
    return result


def table(result: dict) -> str:
    """The results as Markdown."""
    rows = {
        what: ' · '.join(f'{key} {value:.3g}' for key, value in values.items())
        for what, values in result['checks'].items()
    }
    for what, error in result['failed'].items():
        rows[what] = f'**failed**: {error[:200]}'
    return (
        f'{result["device"]}, PyTorch {result["torch"]}, ubn_mmdet {result["ubn_mmdet"]}. '
        "Numbers are the largest difference from float64, relative to each tensor's "
        f'largest value.\n\n{markdown_table(["check", "result"], rows.items(), words=2)}\n'
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
    device = torch.device(options.device)
    if on_gpu(device) and not torch.cuda.is_available():
        parser.error('PyTorch finds no GPU; --device cpu tries the checks themselves')
    if on_gpu(device):
        torch.cuda.set_device(device.index or 0)
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
