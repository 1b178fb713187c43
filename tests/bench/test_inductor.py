"""What inductor would launch for the algebra, against the kernels written by hand."""

import pytest
import torch

pytest.importorskip('triton', reason='Triton is not installed')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.__version__.startswith('2.13.'),
        reason="takes inductor's internals of PyTorch 2.13",
    ),
]

from helpers.commands import run  # noqa: E402

from ubn_mmdet import UBN  # noqa: E402
from ubn_mmdet.bench.inductor import count_kernels  # noqa: E402


def test_inductor_takes_more_launches_than_the_page_says_we_take(tmp_path):
    # In a process of its own: inductor fuses by what the process has compiled before, too.
    printed = run('-W', 'ignore', '-m', 'ubn_mmdet.bench.inductor', cwd=tmp_path)
    for line in (  # docs/performance.md
        "(2, 256, 50, 84), k=1: {'forward': 7, 'backward': 6}",
        "(16, 256, 14, 14), k=3: {'forward': 10, 'backward': 5}",
    ):
        assert line in printed


def test_nothing_of_the_count_is_left_behind():
    count_kernels((2, 4, 3, 3))
    layer, again = UBN(4, kernel_size=1), UBN(4, kernel_size=1)
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(torch.compile(layer)(x), again(x))
