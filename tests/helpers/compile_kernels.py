"""Compiles every Triton kernel to machine code of a GPU; none needs to be there.

``python -m helpers.compile_kernels CAPABILITY DTYPE LAYOUT`` compiles the passes,
``... CAPABILITY`` alone what is between them. Prints a json object, for each kernel and
variant the registers of a thread, and the bytes it keeps in memory for want of registers.
Not for a process in which Triton interprets.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction
from ubn_mmdet.ops.coefficients import Form, Learnt
from ubn_mmdet.ops.eager_algebra import Saved, Sums
from ubn_mmdet.ops.memory import memory_format
from ubn_mmdet.ops.normalizer import Averages

from ubn_mmdet.ops import triton_kernels

POINTERS = {
    torch.float64: '*fp64',
    torch.float32: '*fp32',
    torch.float16: '*fp16',
    torch.bfloat16: '*bf16',
    torch.int64: '*i64',
    torch.bool: '*i1',
}
LAYOUTS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}


class Compiler:
    """Compiles what would be launched, as Triton specialises it."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget('cuda', capability, 32)
        self.usage: dict[str, dict[str, int]] = {}

    def run(
        self, kernel: JITFunction, *args, grid, warmup, num_warps=4, **constants
    ) -> None:
        signature, values, attributes = {}, dict(constants), {}
        for i, (parameter, value) in enumerate(zip(kernel.params, args, strict=False)):
            name = parameter.name
            if isinstance(value, torch.Tensor):
                signature[name] = POINTERS[value.dtype]
                aligned = True
            elif isinstance(value, float):
                signature[name], aligned = 'fp32', False
            elif value == 1:
                signature[name], values[name], aligned = 'constexpr', 1, False
            else:
                signature[name] = 'i32'
                aligned = value % 16 == 0
            if aligned:
                attributes[(i,)] = [['tt.divisibility', 16]]
        signature |= dict.fromkeys(constants, 'constexpr')
        assert list(signature) == [parameter.name for parameter in kernel.params]
        source = ASTSource(kernel, signature, values, attributes)
        options = {'num_warps': num_warps}
        compiled = triton.compile(source, target=self.target, options=options)
        shown = ''.join(f' {k}={v}' for k, v in constants.items())
        self.usage[kernel.__name__ + shown] = resources(compiled.asm['cubin'])


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and its bytes of stack, by what comes with Triton."""
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.backends.__path__[0], 'nvidia', 'bin', 'cuobjdump')
        command = [tool, '--dump-resource-usage', file.name]
        output = subprocess.run(command, check=True, capture_output=True, text=True)
    found = dict(re.findall(r'(REG|STACK|LOCAL):(\d+)', output.stdout))
    return {name: int(number) for name, number in found.items()}


LEARNT = Learnt._fields
SETS = LEARNT, LEARNT[:2], LEARNT[:3], LEARNT[:2] + LEARNT[3:], ()
WIDEST = 4096


def launch_passes(x: torch.Tensor) -> None:
    """Launch every pass over ``x``, with every stage and without."""
    n, c = x.shape[:2]
    map_, kernel = x.new_zeros(n, c, dtype=torch.float32), torch.zeros(c, 3, 3)
    triton_kernels.moments(x)
    for samples in (2, 8):
        batch = torch.empty_like(x[:1]).expand(samples, *x.shape[1:])
        batch = batch.contiguous(memory_format=memory_format(x))
        triton_kernels.moments(batch, gram=True)
    for weight, bias in ((None, None), (kernel, map_)):
        for var in (None, map_):
            triton_kernels.apply(x, map_, map_, map_, weight, bias, var)
            triton_kernels.reduce(x, x, map_, map_, map_, weight, var)
        triton_kernels.gradient(x, map_, weight)
        triton_kernels.gradient(x, map_, weight, offset=map_)
        triton_kernels.gradient(x, map_, weight, x, map_, map_, map_)


def launch_algebra(samples: int, c: int, names: tuple[str, ...], merged: bool) -> None:
    """Launch what is between the passes for a layer that learns ``names``."""
    sizes = dict.fromkeys(LEARNT, (c,)) | {'spatial_weight': (c, 3, 3)}
    learnt = Learnt(**{name: torch.zeros(sizes[name]) for name in names})
    map_, channel, gram = torch.zeros(samples, c), torch.zeros(c), torch.zeros(8, 8)
    form = Form(1e-5)
    averages = Averages(channel, channel, torch.zeros((), dtype=torch.long), 0.1, True)
    for each in (
        averages,
        averages._replace(moves=False, condensation=channel[0]),
        averages._replace(momentum=None, condensation=channel[0], opens_above=False),
    ):
        of_gate = None if each.condensation is None else gram[:samples, :samples]
        packed = None
        if merged:
            packed = triton_kernels.pack(
                map_, map_, of_gate, learnt.centering_weight, samples
            )
        forward = triton_kernels.coefficients(
            map_, map_, of_gate, learnt, form, each, samples, packed
        )
    kernel = learnt.spatial_weight
    sums = Sums(map_, map_, map_, kernel, None if kernel is None else map_)
    saved = Saved(
        mean=map_ if learnt.differs_by_sample else None,
        var=channel,
        is_open=forward.is_open,
        pivot=map_ if learnt.differs_by_sample else channel.expand(samples, c),
        weight=forward.weight,
        sigmoid=forward.sigmoid,
        count=torch.zeros((), dtype=torch.float64) if merged else samples,
        group=None,
        positions=4200,
    )
    if merged:
        triton_kernels.to_statistics(sums, saved, learnt, form)
        triton_kernels.to_maps(sums, saved, learnt, form, torch.zeros(2, c))
        return
    for each in (saved, saved._replace(count=None)):
        for to_maps in (True, False):
            triton_kernels.gradients(sums, each, learnt, form, to_maps)


def main() -> None:
    """Compile for the target, dtype and layout of the command line."""
    capability, *options = sys.argv[1:]
    compiler = Compiler(int(capability))
    JITFunction.run = lambda kernel, *args, **rest: compiler.run(kernel, *args, **rest)
    if options:
        dtype, layout = options
        x = torch.zeros(2, 64, 50, 84, dtype=getattr(torch, dtype))
        launch_passes(x.to(memory_format=LAYOUTS[layout]))
    else:
        for names in SETS:
            for merged in (False, True):
                launch_algebra(2, WIDEST, names, merged)
        launch_algebra(1, 64, LEARNT, merged=False)  # one sample is a constant
        launch_algebra(1, 64, LEARNT, merged=True)
    print(json.dumps(compiler.usage))


if __name__ == '__main__':
    main()
