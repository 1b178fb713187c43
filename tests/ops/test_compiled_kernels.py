"""Every Triton kernel compiles to machine code for the GPUs people have."""

import json

import pytest
from helpers.commands import ROOT, run

pytest.importorskip('triton', reason='Triton is not installed')
pytest.importorskip(
    'triton._C.libtriton.nvidia', reason='Triton was built without NVIDIA GPUs'
)

SPILLED = 32  # bytes of a thread: a few registers
PASSES = {
    '_moments_of_parts',
    '_moments_of_maps',
    '_apply',
    '_sums_of_parts',
    '_sums_of_parts_with_kernel',
    '_sums_of_maps',
    '_gradient',
}
ALGEBRA = {'_pack', '_coefficients', '_gradients'}
CAPABILITY = pytest.mark.parametrize('capability', [80, 90])  # A100, H100


def compiled(folder, *options):
    """What of a GPU each kernel uses, by its name."""
    # Where Triton interprets, it does not compile: in a process of its own.
    output = run(
        '-m', 'helpers.compile_kernels', *options,
        cwd=folder, path=str(ROOT / 'tests'),
        TRITON_INTERPRET='0', TRITON_CACHE_DIR=str(folder),
    )  # fmt: skip
    return json.loads(output.splitlines()[-1])


def assert_compiles(usage, kernels):
    """Every one did, and spills next to nothing."""
    assert {name.split()[0] for name in usage} == kernels
    for name, used in usage.items():
        assert used['LOCAL'] + used['STACK'] <= SPILLED, name


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
@CAPABILITY
def test_the_passes_compile(capability, dtype, layout, tmp_path):
    assert_compiles(compiled(tmp_path, capability, dtype, layout), PASSES)


@pytest.mark.slow
@CAPABILITY
def test_the_algebra_compiles(capability, tmp_path):
    assert_compiles(compiled(tmp_path, capability), ALGEBRA)
