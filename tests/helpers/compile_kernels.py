"""Compiles every Triton kernel to machine code of a GPU; none needs to be there.

``python -m helpers.compile_kernels CAPABILITY DTYPE LAYOUT`` prints a json object: for
each kernel and variant the registers of a thread, and the bytes it keeps in memory for
want of registers. Not for a process in which Triton interprets.
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

from ubn_mmdet.ops.fused import Coefficients
from ubn_mmdet.ops.triton_passes import BACKEND

POINTERS = {
    torch.float32: '*fp32',
    torch.float16: '*fp16',
    torch.bfloat16: '*bf16',
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


def launch_passes(x: torch.Tensor) -> None:
    """Launch every pass over ``x``, with a depthwise kernel and without."""
    n, c = x.shape[:2]
    map_, kernel = x.new_zeros(n, c, dtype=torch.float32), torch.zeros(c, 3, 3)
    BACKEND.moments(x)
    for each, bias in ((None, None), (kernel, map_)):
        coefficients = Coefficients(map_, map_, map_, each, bias)
        BACKEND.apply(x, coefficients)
        BACKEND.sums(x, x, coefficients)
        BACKEND.gradient(x, each, map_, x, None, None, None)
        BACKEND.gradient(x, each, map_, x, None, None, map_)
        BACKEND.gradient(x, each, map_, x, map_, map_, map_)


def main() -> None:
    """Compile for the target, dtype and layout of the command line."""
    capability, dtype, layout = sys.argv[1:]
    compiler = Compiler(int(capability))
    JITFunction.run = lambda kernel, *args, **rest: compiler.run(kernel, *args, **rest)
    x = torch.zeros(2, 64, 50, 84, dtype=getattr(torch, dtype))
    launch_passes(x.to(memory_format=LAYOUTS[layout]))
    print(json.dumps(compiler.usage))


if __name__ == '__main__':
    main()
