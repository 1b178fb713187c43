"""Which passes run: by default, chosen by hand, and where a choice cannot run."""

import pytest
import torch
from helpers.commands import run
from torch import nn

from ubn_mmdet import choose_passes, reference_passes
from ubn_mmdet.ops import passes
from ubn_mmdet.ops.fused import EAGER, FusedPasses
from ubn_mmdet.ops.passes import ReferencePasses, passes_for

X = torch.zeros(2, 3, 4, 4)


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch):
    monkeypatch.delenv('UBN_MMDET_PASSES', raising=False)


class OnGPU:
    """A tensor on an NVIDIA GPU, as far as the choice looks at it."""

    is_cuda = True
    device = torch.device('cuda:0')
    shape = torch.Size([2, 3, 4, 4])

    def __init__(self, dtype=torch.float32):
        self.dtype = dtype

    def __len__(self):
        return self.shape[0]

    def numel(self):
        return self.shape.numel()


@pytest.fixture
def gpu(monkeypatch):
    """Makes such tensors; Triton is there."""
    pytest.importorskip('triton', reason='Triton is not installed')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.setattr(passes, 'Tensor', OnGPU)
    return OnGPU


def assert_fused(x):
    chosen = passes_for(x)
    assert type(chosen) is FusedPasses and chosen.backend is EAGER


def assert_reference(x):
    assert type(passes_for(x)) is ReferencePasses


def test_by_default_the_hand_written_backward():
    assert_fused(X)
    assert_fused(X.double())
    assert_fused(nn.Parameter(X))


def test_what_has_not_run_on_a_gpu_is_not_its_default(gpu):
    from ubn_mmdet.ops.triton_passes import BACKEND

    assert_fused(gpu())
    assert_fused(gpu(torch.float16))
    with choose_passes('triton'):
        assert passes_for(gpu()).backend is BACKEND


def test_what_the_kernels_cannot_do_they_leave(gpu, monkeypatch):
    large = gpu()
    large.shape = torch.Size([1, 64, 2**13, 2**12])
    with choose_passes('triton'):
        assert_fused(gpu(torch.float64))
        assert_fused(large)
        monkeypatch.setattr(torch.version, 'hip', '6.0')
        assert_fused(gpu())


class Subclass(torch.Tensor):
    pass


def test_what_only_the_reference_can_run():
    assert_reference(X[:0])
    assert_reference(X.to('meta'))
    assert_reference(X.as_subclass(Subclass))
    seen = []
    torch.vmap(lambda row: seen.append(type(passes_for(row))) or row)(X)
    with torch.autograd.forward_ad.dual_level():
        seen.append(type(passes_for(X)))
    torch.jit.trace(
        lambda x: seen.append(type(passes_for(x))) or x, X, check_trace=False
    )
    assert set(seen) == {ReferencePasses} and len(seen) >= 3


def test_chosen_by_a_context():
    with reference_passes():
        assert_reference(X)
        with choose_passes('fused'):
            assert_fused(X)
        assert_reference(X)
    assert_fused(X)


def test_chosen_by_a_decorator():
    choose_passes('reference')(assert_reference)(X)
    assert_fused(X)


def test_chosen_by_the_environment(monkeypatch):
    monkeypatch.setenv('UBN_MMDET_PASSES', 'reference')
    assert_reference(X)
    with choose_passes('fused'):  # the nearer one
        assert_fused(X)
    monkeypatch.setenv('UBN_MMDET_PASSES', '')
    assert_fused(X)


def test_a_misspelt_choice(monkeypatch):
    with pytest.raises(ValueError, match="fused, triton, reference, got 'fuse'"):
        choose_passes('fuse').__enter__()
    monkeypatch.setenv('UBN_MMDET_PASSES', 'eager')
    with pytest.raises(ValueError, match="UBN_MMDET_PASSES .* got 'eager'"):
        passes_for(X)


def test_triton_is_needed_where_it_is_chosen_alone(tmp_path):
    script = (
        'import sys\n'
        'sys.modules["triton"] = None  # an import of it fails\n'
        'import torch\n'
        'from ubn_mmdet import UBN, choose_passes\n'
        'layer, x = UBN(4), torch.randn(2, 4, 3, 3)\n'
        'layer(x)\n'
        'print("without it")\n'
        'with choose_passes("triton"):\n'
        '    layer(x)\n'
    )
    output = run('-c', script, cwd=tmp_path, ok=False, TRITON_INTERPRET='1')
    assert 'without it' in output
    assert 'import of triton halted' in output
