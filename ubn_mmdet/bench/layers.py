"""Times norm layers side by side, interleaved in one process.

Absolute times wander with the machine's load; ratios of what runs in turns hold.
"""

import time
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import UBN
from .timing import time_interleaved

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
SMALL = ('layer3', 'box head', 'demo layer4')  # where small operations are felt most
COMPILED = ', compiled'  # behind a layer's name
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


STAGES = {  # what UBN adds, but for the kernel
    'UBN k=1 / BatchNorm': ('UBN k=1', 'BatchNorm'),
    'UBN k=3 / BatchNorm + depthwise 3x3': ('UBN k=3', 'BatchNorm + depthwise 3x3'),
}
RATIOS = {**STAGES, 'definition / UBN k=3': ('definition', 'UBN k=3')}
# Inductor would have convolutions in channels_last, and copies made for that; a depthwise
# one on a CPU then takes twice the time.
COMPILER_OPTIONS: dict[str, Any] = {'layout_optimization': False}
COMPILED_RATIOS = {  # compiled over plain
    f'{over}{COMPILED} / {under}': (f'{over}{COMPILED}', under)
    for over, under in (
        *STAGES.values(),
        ('BatchNorm', 'BatchNorm'),
        ('BatchNorm + depthwise 3x3', 'BatchNorm + depthwise 3x3'),
    )
}
STEP_RATIOS = {
    **STAGES,
    'the kernel: BatchNorm + depthwise 3x3 / BatchNorm': (
        'BatchNorm + depthwise 3x3',
        'BatchNorm',
    ),
    'all: UBN k=3 / BatchNorm': ('UBN k=3', 'BatchNorm'),
}


def time_layers(
    shape: tuple[int, ...], mode: str, device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds of all layers at an input shape, in one of ``MODES``."""
    return time_interleaved(layer_runs(shape, mode, device), repeats)


def time_compiled(
    shape: tuple[int, ...], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds of a training step of each layer, plain and by ``torch.compile``."""
    compared = _but_the_definition(shape[1], device)
    for name, layer in _but_the_definition(shape[1], device).items():
        compared[f'{name}{COMPILED}'] = _compiled(layer)
    return time_interleaved(
        layer_runs(shape, 'forward + backward', device, compared), repeats
    )


def first_calls(shape: tuple[int, ...], device: torch.device) -> dict[str, list[float]]:
    """Seconds that ``torch.compile`` takes for a layer's first training step.

    Nothing is taken from earlier compilations.
    """
    times = {}
    config = torch.compiler.config
    with config.patch(force_disable_caches=True):  # type: ignore[attr-defined]
        for name, layer in _but_the_definition(shape[1], device).items():
            torch.compiler.reset()
            compared = {name: _compiled(layer)}
            runs = layer_runs(shape, 'forward + backward', device, compared)
            start = time.perf_counter()
            runs[name]()
            times[name] = [time.perf_counter() - start]
    return times


def _compiled(layer: nn.Module) -> nn.Module:
    # nn.Module.compile() leaves PyTorch's own layers as they are.
    return cast(nn.Module, torch.compile(layer, options=COMPILER_OPTIONS))


def _but_the_definition(channels: int, device: torch.device) -> dict[str, nn.Module]:
    compared = layers(channels, device)
    del compared['definition']
    return compared


def layer_runs(
    shape: tuple[int, ...],
    mode: str,
    device: torch.device,
    compared: Mapping[str, nn.Module] | None = None,
) -> dict[str, Callable[[], None]]:
    """A step of each layer at an input shape, in one of ``MODES``.

    Args:
        shape: ``(N, C, H, W)``.
        mode: One of ``MODES``.
        device: Where.
        compared: The layers; None for those of :func:`layers`.
    """
    if compared is None:
        compared = layers(shape[1], device)
    synchronize = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    x = torch.randn(shape, device=device) + 1
    upstream = torch.randn(shape, device=device)
    x.requires_grad_(mode == 'forward + backward')

    def runner(layer: nn.Module) -> Callable[[], None]:
        layer.train(mode != 'evaluation')

        def run() -> None:
            x.grad = None  # else each turn adds to the one before
            layer.zero_grad()
            with torch.set_grad_enabled(mode == 'forward + backward'):
                y = layer(x)
            if mode == 'forward + backward':
                y.backward(upstream)
            synchronize()

        return run

    return {name: runner(layer) for name, layer in compared.items()}


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
