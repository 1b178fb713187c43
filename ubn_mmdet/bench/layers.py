"""Times norm layers side by side, interleaved in one process.

Absolute times wander with the machine's load; ratios of what runs in turns hold.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files import write_whole
from ..layers import UBN
from ..records import check_record, read_json

R50_FPN = {  # two images of 800x1333, padded to 800x1344
    'stem': (2, 64, 400, 672),
    'layer1': (2, 64, 200, 336),
    'layer1 out': (2, 256, 200, 336),
    'layer2': (2, 128, 100, 168),
    'layer2 out': (2, 512, 100, 168),
    'layer3': (2, 256, 50, 84),
    'layer3 out': (2, 1024, 50, 84),
    'layer4': (2, 512, 25, 42),
    'layer4 out': (2, 2048, 25, 42),
    'box head': (16, 256, 14, 14),
}
DEMO = {  # eight images of 160x160
    'demo stem': (8, 64, 80, 80),
    'demo layer1': (8, 64, 40, 40),
    'demo layer2': (8, 128, 20, 20),
    'demo layer3': (8, 256, 10, 10),
    'demo layer4': (8, 512, 5, 5),
}
GROWTH_BASE = (2, 32, 16, 16)  # the smallest
MODES = ('forward', 'forward + backward', 'evaluation')


class DefinitionUBN(nn.Module):
    """The definition as it is written: a pass for each stage, a cosine for each pair."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.kernel = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.centering = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gate_weight = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gate_bias = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.condensation: Tensor
        self.register_buffer('condensation', torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """As UBN with a kernel of 3, while the gate is open."""
        if self.training:
            with torch.no_grad():
                pairs = combinations(x[:16].flatten(1), 2)
                cosines = [F.cosine_similarity(a, b, dim=0) for a, b in pairs]
                c = torch.stack(cosines).mean() if cosines else x.new_ones(())
                self.condensation.lerp_(c, 0.1)
        xhat = self.norm(x + self.centering * x.mean((2, 3), keepdim=True))
        pooled = xhat.mean((2, 3), keepdim=True)
        gate = torch.sigmoid(self.gate_weight * pooled + self.gate_bias)
        return gate * self.kernel(xhat)


def layers(channels: int, device: torch.device) -> dict[str, nn.Module]:
    """What is compared; each UBN with what does the same work without its stages."""
    compared = {
        'BatchNorm': nn.BatchNorm2d(channels),
        'UBN k=1': UBN(channels, kernel_size=1),
        'BatchNorm + depthwise 3x3': nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        ),
        'UBN k=3': UBN(channels),
        'definition': DefinitionUBN(channels),
    }
    if device.type == 'cuda':  # the only place where PyTorch's own can train
        compared['SyncBatchNorm'] = nn.SyncBatchNorm(channels)
    return {name: layer.to(device) for name, layer in compared.items()}


RATIOS = {
    'UBN k=1 / BatchNorm': ('UBN k=1', 'BatchNorm'),
    'UBN k=3 / BatchNorm + depthwise 3x3': ('UBN k=3', 'BatchNorm + depthwise 3x3'),
    'definition / UBN k=3': ('definition', 'UBN k=3'),
}


def time_interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each run, ``repeats`` of each in turns, after one for warming up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def time_layers(
    shape: tuple[int, ...], mode: str, device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds of all layers at an input shape, in one of ``MODES``."""
    return time_interleaved(layer_runs(shape, mode, device), repeats)


def layer_runs(
    shape: tuple[int, ...], mode: str, device: torch.device
) -> dict[str, Callable[[], None]]:
    """A step of each layer at an input shape, in one of ``MODES``."""
    synchronize = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    x = torch.randn(shape, device=device) + 1
    upstream = torch.randn(shape, device=device)
    x.requires_grad_(mode == 'forward + backward')

    def runner(layer: nn.Module) -> Callable[[], None]:
        layer.train(mode != 'evaluation')

        def run() -> None:
            with torch.set_grad_enabled(mode == 'forward + backward'):
                y = layer(x)
            if mode == 'forward + backward':
                y.backward(upstream)
            synchronize()

        return run

    return {name: runner(layer) for name, layer in layers(shape[1], device).items()}


def profile_operations(
    shape: tuple[int, ...], mode: str, device: torch.device, repeats: int
) -> dict[str, dict[str, float]]:
    """Milliseconds that each operation of a layer takes itself, the mean over repeats.

    The profiler's own cost is in it, which is felt in small operations.
    """
    result = {}
    for name, run in layer_runs(shape, mode, device).items():
        run()
        with torch.profiler.profile() as profiler:
            for _ in range(repeats):
                run()
        result[name] = {
            event.key: event.self_cpu_time_total / repeats / 1e3
            for event in profiler.key_averages()
        }
    return result


def saved_bytes(shape: tuple[int, ...], device: torch.device) -> dict[str, int]:
    """Bytes that each layer keeps for backward, its parameters and buffers left out."""
    result = {}
    for name, layer in layers(shape[1], device).items():
        own = {t.untyped_storage().data_ptr() for t in layer.state_dict().values()}
        saved: dict[int, int] = {}

        def note(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        x = torch.randn(shape, device=device, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            layer(x)
        result[name] = sum(size for key, size in saved.items() if key not in own)
    return result


def growth_shapes() -> dict[str, list[tuple[int, ...]]]:
    """Shapes that grow in one direction: samples, channels, positions."""
    n, c, h, w = GROWTH_BASE
    return {
        'N': [(n * 2**i, c, h, w) for i in range(5)],
        'C': [(n, c * 2**i, h, w) for i in range(5)],
        'H*W': [(n, c, h * 2**i, w * 2**i) for i in range(4)],
    }


def describe_machine(device: torch.device) -> dict[str, str]:
    """What the times were taken on."""
    if device.type == 'cuda':
        processor = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        processor = f'{_processor_name()}, {threads} thread{"s" * (threads > 1)}'
    return {
        'device': processor,
        'system': f'{platform.system()} {platform.machine()}',
        'python': platform.python_version(),
        'torch': torch.__version__,
    }


def _processor_name() -> str:
    with open('/proc/cpuinfo') as lines:
        names = (line.split(':')[1].strip() for line in lines if 'model name' in line)
        return next(names, platform.machine())


class Results:
    """A json file that grows case by case; a case that it holds is not run again.

    Raises:
        RecordError: If the file was measured on another machine.
    """

    def __init__(self, path: str | os.PathLike, machine: dict[str, str]) -> None:
        self.path = Path(path)
        self.content: dict[str, dict] = {'machine': machine}
        if self.path.exists():
            found = read_json(self.path)
            measured_on = found.get('machine') if isinstance(found, dict) else None
            check_record(path, measured_on, machine, 'measurements')
            self.content = found

    def case(self, section: str, name: str, run: Callable[[], object]) -> None:
        """Run a case and write its result, unless it is there."""
        cases = self.content.setdefault(section, {})
        if name not in cases:
            cases[name] = run()
            write_whole(self.path, json.dumps(self.content, indent=1).encode())


def ratio(times: dict[str, list[float]], over: str, under: str) -> tuple[float, ...]:
    """Median and quartiles of the ratio of two runs, turn by turn."""
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method='inclusive')
    return median, low, high


def ratio_table(cases: dict[str, dict], ratios: Mapping[str, tuple[str, str]]) -> str:
    """A Markdown table: a row a case, the median ratio with its quartiles."""
    rows = [f'| | {" | ".join(ratios)} |', f'|---|{"---:|" * len(ratios)}']
    for name, times in cases.items():
        cells = []
        for over, under in ratios.values():
            median, low, high = ratio(times, over, under)
            cells.append(f'{median:.2f} ({low:.2f}–{high:.2f})')
        rows.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(rows)


def median_table(cases: dict[str, dict[str, list[float]]]) -> str:
    """A Markdown table of median milliseconds."""
    columns = list(next(iter(cases.values())))
    rows = [f'| ms | {" | ".join(columns)} |', f'|---|{"---:|" * len(columns)}']
    for name, times in cases.items():
        cells = (f'{1e3 * statistics.median(times[column]):.2f}' for column in columns)
        rows.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(rows)


def total_times(cases: Iterable[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Turn by turn sums over cases: what all shapes together take."""
    cases = list(cases)
    return {
        name: [sum(turn) for turn in zip(*(case[name] for case in cases), strict=True)]
        for name in cases[0]
    }


def report(content: dict) -> str:
    """All results as Markdown."""
    machine = ', '.join(f'{key} {value}' for key, value in content['machine'].items())
    parts = [f'Measured on: {machine}.', 'Ratios are medians over turns (quartiles).']
    for mode in MODES:
        if cases := content.get(mode):
            r50 = [
                times for name, times in cases.items() if name.split(' (')[0] in R50_FPN
            ]
            all_cases = dict(cases)
            if len(r50) == len(R50_FPN):
                all_cases['all shapes of R50-FPN'] = total_times(r50)
            parts += [
                f'### {mode.capitalize()}',
                ratio_table(all_cases, RATIOS),
                median_table(cases),
            ]
    if cases := content.get('saved bytes'):
        parts += ['### Saved for backward, in bytes', _bytes_table(cases)]
    if cases := content.get('operations'):
        parts += ['### Operations, in ms']
        parts += [
            f'{name}\n\n{_operations_table(case)}' for name, case in cases.items()
        ]
    if cases := content.get('training step'):
        ratios = {'UBN / BN': ('UBN', 'BN')}
        parts += ['### Training step of a detector', ratio_table(cases, ratios)]
        parts += [median_table(cases)]
    return '\n\n'.join(parts) + '\n'


def _bytes_table(cases: dict[str, dict[str, int]]) -> str:
    columns = list(next(iter(cases.values())))
    rows = [f'| | {" | ".join(columns)} |', f'|---|{"---:|" * len(columns)}']
    for name, sizes in cases.items():
        rows.append(f'| {name} | {" | ".join(f"{sizes[c]:,}" for c in columns)} |')
    return '\n'.join(rows)


def _operations_table(case: dict[str, dict[str, float]], shown: int = 7) -> str:
    rows = ['| layer | most expensive operations | the rest |', '|---|---|---:|']
    for name, times in case.items():
        ordered = sorted(times.items(), key=lambda item: -item[1])
        first = ', '.join(f'`{op}` {ms:.2f}' for op, ms in ordered[:shown])
        rest = sum(ms for _, ms in ordered[shown:])
        rows.append(f'| {name} | {first} | {rest:.2f} |')
    return '\n'.join(rows)
