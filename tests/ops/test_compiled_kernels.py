"""Every Triton kernel compiles to machine code for the GPUs people have."""

import json

import pytest
from helpers.commands import ROOT, run

pytest.importorskip('triton', reason='Triton is not installed')
pytest.importorskip(
    'triton._C.libtriton.nvidia', reason='Triton was built without NVIDIA GPUs'
)

SPILLED = 32  # bytes of a thread: a few registers
BACKEND = {
    '_moments_of_parts',
    '_moments_of_maps',
    '_apply',
    '_sums_of_parts',
    '_sums_of_maps',
    '_gradient',
}


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
@pytest.mark.parametrize('capability', [80, 90])  # A100, H100
def test_every_kernel_compiles_and_spills_next_to_nothing(
    capability, dtype, layout, tmp_path
):
    # Where Triton interprets, it does not compile: in a process of its own.
    output = run(
        '-m', 'helpers.compile_kernels', capability, dtype, layout,
        cwd=tmp_path, path=str(ROOT / 'tests'),
        TRITON_INTERPRET='0', TRITON_CACHE_DIR=str(tmp_path),
    )  # fmt: skip
    usage = json.loads(output.splitlines()[-1])
    assert {name.split()[0] for name in usage} == BACKEND
    for name, used in usage.items():
        assert used['LOCAL'] + used['STACK'] <= SPILLED, name
