"""Which passes run, by themselves and chosen by hand, and when kernels are not trusted."""

import warnings

import pytest
import torch
from helpers.commands import run
from ubn_mmdet.ops.dispatch import passes_for
from ubn_mmdet.ops.reference import ReferencePasses

from ubn_mmdet import UBN, choose_passes, reference_passes
from ubn_mmdet.ops import dispatch, first_use, trials
from ubn_mmdet.ops.fused import FusedPasses

X = torch.zeros(2, 3, 4, 4)


@pytest.fixture
def gpu(monkeypatch):
    """Tensors count as on a GPU; nothing has been compared so far."""
    pytest.importorskip('triton', reason='Triton is not installed')
    if torch.cuda.is_available():
        pytest.skip('kernels are not interpreted')
    monkeypatch.setattr(dispatch, '_is_on_nvidia', lambda x: True)
    monkeypatch.setattr(first_use, '_known', {})
    monkeypatch.setattr(first_use, '_is_off', False)
    monkeypatch.setattr(trials, 'SHAPE', (2, 2, 3, 5))  # the interpreter is slow
    from ubn_mmdet.ops import triton_kernels

    return triton_kernels


def test_which_passes_run():
    assert type(passes_for(X)) is FusedPasses
    assert isinstance(passes_for(X[:0]), ReferencePasses)
    assert isinstance(passes_for(X.to('meta')), ReferencePasses)
    seen = torch.vmap(lambda row: row * (isinstance(passes_for(row), ReferencePasses)))(
        X + 1
    )
    assert (seen == 1).all()


def test_chosen_by_a_context():
    with reference_passes():
        assert isinstance(passes_for(X), ReferencePasses)
        with choose_passes('fused'):
            assert type(passes_for(X)) is FusedPasses
        assert isinstance(passes_for(X), ReferencePasses)
    assert type(passes_for(X)) is FusedPasses


def test_chosen_by_the_environment(monkeypatch):
    monkeypatch.setenv('UBN_MMDET_PASSES', 'reference')
    assert isinstance(passes_for(X), ReferencePasses)
    with choose_passes('fused'):  # the nearer one
        assert type(passes_for(X)) is FusedPasses
    monkeypatch.setenv('UBN_MMDET_PASSES', '')
    assert type(passes_for(X)) is FusedPasses


def test_a_misspelt_choice(monkeypatch):
    with pytest.raises(ValueError, match="triton, fused, reference, got 'fuse'"):
        choose_passes('fuse').__enter__()
    monkeypatch.setenv('UBN_MMDET_PASSES', 'eager')
    with pytest.raises(ValueError, match="UBN_MMDET_PASSES .* got 'eager'"):
        passes_for(X)


def test_a_gpu_has_the_kernels(gpu):
    from ubn_mmdet.ops.triton_passes import TritonPasses

    assert type(passes_for(X)) is TritonPasses
    assert type(passes_for(X.bfloat16())) is TritonPasses
    assert type(passes_for(X.double())) is FusedPasses
    assert isinstance(passes_for(X[:0]), ReferencePasses)
    with choose_passes('fused'):
        assert type(passes_for(X)) is FusedPasses
    with reference_passes():
        assert isinstance(passes_for(X), ReferencePasses)


def test_without_triton_nothing_is_said(gpu, monkeypatch):
    monkeypatch.setattr(dispatch, 'find_spec', lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert type(passes_for(X)) is FusedPasses


def test_choosing_what_is_not_there(tmp_path):
    output = run(
        '-c',
        'import sys\n'
        'sys.modules["triton"] = None  # an import of it fails\n'
        'import torch\n'
        'from ubn_mmdet import UBN\n'
        'UBN(4)(torch.randn(2, 4, 3, 3))\n',
        cwd=tmp_path,
        ok=False,
        UBN_MMDET_PASSES='triton',
        TRITON_INTERPRET='1',
    )
    assert 'import of triton halted' in output


def test_a_use_is_compared_once(gpu, monkeypatch):
    compared = []
    monkeypatch.setattr(first_use, '_compare', compared.append)
    last = X.contiguous(memory_format=torch.channels_last)
    for x, size in [(X, 1), (X, 3), (X.half(), 1), (last, 1)] * 2:
        passes_for(x, size)
    assert len(compared) == len(set(compared)) == 4
    with choose_passes('triton'):  # by hand: as it is
        passes_for(X, 5)
    assert len(compared) == 4


@pytest.mark.parametrize(
    'name',
    [
        *('moments', 'apply', 'gradient', 'reduce', 'coefficients', 'gradients'),
        *('pack', 'to_statistics', 'to_maps'),
    ],
)
def test_a_wrong_kernel_is_not_taken(gpu, monkeypatch, name):
    right = getattr(gpu, name)

    def wrong(*args, **kwargs):
        result = right(*args, **kwargs)
        first = result[1] if isinstance(result, tuple) else result
        first.view(-1)[-1] += 0.5 * first.abs().max()
        return result

    monkeypatch.setattr(gpu, name, wrong)
    with pytest.warns(UserWarning, match='without its Triton kernels.*differ') as seen:
        assert type(passes_for(X, 3)) is FusedPasses
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # said once, for all of them
        assert type(passes_for(X, 3)) is FusedPasses
        assert type(passes_for(X.half(), 1)) is FusedPasses


def test_a_kernel_that_cannot_be_compiled(gpu, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('no such instruction')

    monkeypatch.setattr(gpu, 'reduce', fail)
    with pytest.warns(UserWarning, match='RuntimeError: no such instruction'):
        assert type(passes_for(X)) is FusedPasses


def test_a_comparison_leaves_the_caller_alone(gpu):
    state = torch.get_rng_state()
    seen = []

    def note(tensor):
        seen.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        passes_for(X.clone().requires_grad_())
    assert not seen
    assert torch.equal(torch.get_rng_state(), state)
    assert first_use._known  # it did compare


def test_nothing_is_compared_in_a_backward(gpu, monkeypatch):
    compared = []
    monkeypatch.setattr(first_use, 'compare', compared.append)

    class Repeats(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            assert type(passes_for(X)) is FusedPasses
            return gradient

    Repeats.apply(torch.ones(1, requires_grad=True)).backward()
    assert not compared


def test_a_layer_asks_for_its_kernel(gpu, monkeypatch):
    compared = []
    monkeypatch.setattr(first_use, '_compare', compared.append)
    x = torch.randn(2, 3, 4, 4)
    UBN(3)(x)
    UBN(3, kernel_size=1)(x)
    assert [use.kernel_size for use in compared] == [3, 1]
