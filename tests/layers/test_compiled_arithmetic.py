"""``UBN_MMDET_COMPILE=1``: what lies between two passes is compiled."""

import copy
import warnings
from functools import partial

import pytest
import torch
import torch.utils.checkpoint as cp
from helpers.layers import images, shake
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from ubn_mmdet import (
    BNET,
    MABN,
    MBN,
    RBN,
    UBN,
    padded_images,
    reference_passes,
)
from ubn_mmdet.ops import compiling
from ubn_mmdet.ops.fused import Coefficients, FusedPasses
from ubn_mmdet.ops.statistics import flat_summary

LAYERS = {
    'UBN': partial(UBN, condensation_threshold=0.9),  # the gate opens and closes below
    'UBN k=1': partial(UBN, kernel_size=1, condensation_threshold=0.9),
    'RBN': RBN,
    'BNET': BNET,
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No function is compiled yet, and none has failed to be."""
    monkeypatch.setenv(compiling.VARIABLE, '1')
    monkeypatch.setattr(compiling, '_has_failed', False)
    compiling._compiled.cache_clear()
    torch.compiler.reset()
    counters.clear()


@pytest.fixture
def graphs(monkeypatch):
    """What is compiled, by a backend that is quick: it differentiates, and that is all."""
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return torch._dynamo.lookup_backend('aot_eager')(graph, inputs)

    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend=backend))
    return seen


def plain(monkeypatch):
    monkeypatch.setenv(compiling.VARIABLE, '0')


def make(kind, channels=4):
    return shake(LAYERS[kind](channels).double()).float()


def step(layer, x):
    x = x.float().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.pow(3).sum().backward()
    seen = y, x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()
    return [tensor.detach().clone() for tensor in seen]


def steps(layer):
    """Training on both sides of the gate and in several sizes, then evaluation."""
    seen = []
    for i, (n, side) in enumerate([(3, 4), (2, 5), (4, 3), (4, 3)]):
        x = images(n, layer.num_features, side, side + 1, alike=i % 2 == 0, seed=i)
        seen += step(layer, x)
    return seen + step(layer.eval(), x)


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('kind', LAYERS)
def test_it_computes_what_is_written(kind, monkeypatch):
    layer = make(kind)
    again = copy.deepcopy(layer)
    ours = steps(layer)
    plain(monkeypatch)
    assert_same(ours, steps(again))
    assert not compiling._has_failed


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['UBN', 'RBN'])
def test_it_halves_the_launches(kind, monkeypatch):
    from torch._inductor import config, metrics

    layer, x = make(kind), images(2, 4, 3, 3)
    before = metrics.generated_kernel_count
    with config.patch(force_disable_caches=True):
        step(layer, x)
    kernels = metrics.generated_kernel_count - before
    assert kernels > 0
    of_passes = operations(lambda: passes_alone(layer, x))
    plain(monkeypatch)
    assert of_passes + kernels <= 0.5 * operations(lambda: step(layer, x))


def passes_alone(layer, x):
    x = x.float()
    passes = FusedPasses(x.requires_grad_())
    mean, var = passes.moments()
    ones = torch.ones_like(mean)
    if isinstance(layer, UBN):
        flat_summary(x, mean, var)
        kernel = layer.spatial_weight
        y = passes.apply(Coefficients(mean, var, ones, kernel, ones))
    else:
        y = passes.apply(Coefficients(mean, var, ones))
    y.pow(3).sum().backward()


def operations(call):
    count = Count()
    with count:
        call()
    return count.number


class Count(TorchDispatchMode):
    """Operations that compute something."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.number += not function.is_view
        return result


def test_one_function_serves_a_model(graphs):
    for channels in (64, 128, 256, 512, 1024, 2048):
        for n, side in ((2, 5), (4, 3)):
            step(make('UBN', channels), images(n, channels, side, side))
    # One for the state, one for the coefficients; a backend may be asked twice for one.
    assert counters['stats']['unique_graphs'] == 2


@pytest.mark.parametrize('reentrant', [True, False])
@pytest.mark.parametrize('kind', LAYERS)
def test_activation_checkpointing(kind, reentrant, graphs):
    layer = make(kind)
    again = copy.deepcopy(layer)
    xs = [images(3, 4, 4, 4, seed=seed, alike=seed == 0) for seed in range(3)]
    checkpointed = partial(cp.checkpoint, again, use_reentrant=reentrant)
    ours, theirs = of_calls(again, checkpointed, xs), of_calls(layer, layer, xs)
    assert_same(ours, theirs)
    assert graphs


def of_calls(layer, call, xs):
    """Of one loss of several calls."""
    xs = [x.float().requires_grad_() for x in xs]
    sum(call(x).pow(3).sum() for x in xs).backward()
    gradients = [leaf.grad for leaf in (*xs, *layer.parameters())]
    return gradients + list(layer.buffers())


def test_selective_checkpointing(graphs):
    layer = make('UBN')
    again = copy.deepcopy(layer)
    keep = partial(
        cp.create_selective_checkpoint_contexts, [torch.ops.aten.convolution.default]
    )
    checkpointed = partial(cp.checkpoint, again, use_reentrant=False, context_fn=keep)
    xs = [images(3, 4, 4, 4, seed=seed) for seed in range(2)]
    assert_same(of_calls(again, checkpointed, xs), of_calls(layer, layer, xs))


UNCOMPILED = {
    'reference passes': lambda x: within(reference_passes(), UBN(2), x),
    'padded maps': lambda x: within(padded_images([(4, 4), (2, 3)], (4, 4)), UBN(2), x),
    'trace': lambda x: torch.jit.trace(UBN(2).eval(), x, check_trace=False),
    'functorch': lambda x: torch.func.vjp(UBN(2).eval(), x),
    'forward-mode': lambda x: torch.func.jvp(UBN(2).eval(), (x,), (x,)),
    'dispatch mode': lambda x: within(Count(), UBN(2), x),
    'state in the backward': lambda x: MABN(2)(x),
    'a second forward': lambda x: MBN(2)(x),
    'float64': lambda x: UBN(2).double()(x.double()),
    'empty': lambda x: UBN(2)(x[:0]),
}


def test_a_weight_that_is_no_parameter(graphs, monkeypatch):
    layer, x = make('UBN'), images(3, 4, 4, 4)
    prune.random_unstructured(layer, 'weight', 0.5)
    again = make('UBN')
    again.weight = nn.Parameter(layer.weight.detach())
    ours = step(layer, x)
    plain(monkeypatch)
    assert_same(ours[:2], step(again, x)[:2])
    assert graphs


def within(context, layer, x):
    with context:
        return layer(x)


@pytest.mark.parametrize('call', UNCOMPILED.values(), ids=UNCOMPILED)
@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # torch.jit
def test_what_is_not_compiled(call, graphs):
    call(images(2, 2, 4, 4).float())
    assert not graphs


def test_it_is_off_by_default(graphs, monkeypatch):
    for value in ('', '0', None):
        if value is None:
            monkeypatch.delenv(compiling.VARIABLE)
        else:
            monkeypatch.setenv(compiling.VARIABLE, value)
        UBN(2)(images(2, 2, 4, 4).float())
    assert not graphs


def test_other_values_are_refused(monkeypatch):
    monkeypatch.setenv(compiling.VARIABLE, 'yes')
    with pytest.raises(ValueError, match="must be 0 or 1, got 'yes'"):
        UBN(2)(images(2, 2, 4, 4).float())


def test_without_a_compiler_it_goes_on_with_one_warning(monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError('no compiler found')

    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend=backend))
    layer, x = make('UBN'), images(3, 4, 4, 4)
    again = copy.deepcopy(layer)
    with pytest.warns(UserWarning, match='(?s)UBN_MMDET_COMPILE.*no compiler found'):
        ours = step(layer, x)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        step(make('RBN'), x)
    plain(monkeypatch)
    assert_same(ours, step(again, x))
