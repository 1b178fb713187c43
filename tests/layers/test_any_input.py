"""Any settings and any input: the definition's result, or an error that says why.

``--hypothesis-profile=search`` looks further, at random (CONTRIBUTING.md).
"""

import copy
import inspect
import re
from contextlib import nullcontext

import pytest
import torch

pytest.importorskip('hypothesis')

from helpers.any_input import (
    DTYPES,
    HOSTILE,
    KINDS,
    layers,
    settings_of,
    shapes,
    tensors,
)
from helpers.layers import compare
from hypothesis import assume, given
from hypothesis import strategies as st

from ubn_mmdet import MABN, PowerNorm, reference_passes
from ubn_mmdet.layers import FAMILY
from ubn_mmdet.layers.pipeline import PipelineNorm

EXACT = {'rtol': 0, 'atol': 0, 'equal_nan': True}
# All that a layer says of an input that it refuses.
REFUSALS = (
    'expected a tensor, got',
    'expected a dense tensor, got layout',
    'expected input of a real floating-point dtype of 16 bits or more, got',
    'expected 4D input',
    r'expected input with \d+ channels, got',
    'expected more than 1 value per (channel|group) when training, got input size',
    r'num_groups must divide C\*H\*W = ',
)
no_numbers = ['1', None, [1], torch.nan]
BAD = {
    'num_features': st.sampled_from([0, -1, 2.0, True, '3', None]),
    'eps': st.sampled_from([0, -1e-5, torch.inf, True, *no_numbers]),
    'momentum': st.sampled_from([-0.1, 1.5, torch.inf, False, '1', [1], torch.nan]),
    'affine': st.sampled_from([1, 'yes', None]),
    'track_running_stats': st.sampled_from([0, 'no', None]),
    'sync': st.sampled_from([1, 'yes', None]),
    'sync_group_size': st.sampled_from([0, -2, 1.0, True, 'all']),
    'dtype': st.sampled_from(
        [torch.int64, torch.complex64, torch.float8_e5m2, 'float32']
    ),
    'centering': st.sampled_from([1, 'yes', None]),
    'scaling': st.sampled_from(['raw', True, 0, ['normalized']]),
    'kernel_size': st.sampled_from([0, 2, -3, 3.0, (3, 3), True, None]),
    'initial_weight': st.sampled_from([torch.inf, True, *no_numbers]),
    'initial_spatial': st.sampled_from(['ones', None, 0, ['zeros']]),
    'condensation_threshold': st.sampled_from([-0.1, 1, True, '1', [1], torch.nan]),
    'condensation_feature': st.sampled_from(['mean', None, ['flat']]),
    'condensation_opens': st.sampled_from(['all', None, True]),
    'num_groups': st.sampled_from([0, -1, 2.0, True, None]),
    'r_max': st.sampled_from([0.5, torch.inf, True, *no_numbers]),
    'd_max': st.sampled_from([-0.5, torch.inf, True, *no_numbers]),
    'memory_size': st.sampled_from([0, 1.5, True, None]),
    'warmup_steps': st.sampled_from([-1, 1.5, True, None]),
    'renorm_steps': st.sampled_from([-1, 1.5, True, None]),
    'plain_steps': st.sampled_from([-1, 1.5, True, None]),
    'momentun': st.just(0.1),
}
passes = st.sampled_from([nullcontext, reference_passes])


def state(layer):
    """All that a call could change, but gradients."""
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    modes = [module.training for module in layer.modules()]
    return {name: t.detach().clone() for name, t in tensors.items()}, modes


def assert_same_state(layer, before):
    now = state(layer)
    assert now[1] == before[1]
    torch.testing.assert_close(now[0], before[0], **EXACT)


def is_refused(layer, x):
    """Whether the layer refuses ``x``, with one of its own errors and no other effect."""
    before = state(layer)
    try:
        copy.deepcopy(layer)(x)
    except (TypeError, ValueError, RuntimeError) as error:
        with pytest.raises(type(error), match='|'.join(REFUSALS)):
            layer(x)
        assert_same_state(layer, before)
        return True
    return False


def takes(norm, name):
    """Whether ``norm`` has an argument ``name``, or could not have it in any case."""
    own = inspect.signature(norm).parameters
    common = inspect.signature(PipelineNorm).parameters
    return name in own or name in common or name == 'momentun'


@given(st.data())
def test_output_gradients_and_state_are_the_definitions(data):
    shape = data.draw(shapes(empty=False))
    layer = data.draw(layers(shape[1]))
    x = data.draw(tensors(shape, torch.float64))
    assume(not is_refused(layer, x))
    with data.draw(passes)():
        # A mean of a thousand deviations costs six digits of sixteen.
        compare(layer, x, data.draw(st.integers(1, 2)), rtol=1e-8, atol=1e-8)


@given(st.data())
def test_whatever_comes_the_state_stays_finite_and_finite_input_does(data):
    """Of any dtype and values; NaN and inf, too, or no elements at all."""
    shape = data.draw(shapes())
    dtype = data.draw(st.sampled_from(DTYPES))
    layer = data.draw(layers(shape[1], data.draw(st.sampled_from(DTYPES))))
    x = data.draw(tensors(shape, dtype, KINDS + HOSTILE)).requires_grad_()
    before = x.detach().clone()
    assume(not is_refused(layer, x))
    with data.draw(passes)():
        y = layer(x)
        y.sum().backward()
    assert (y.shape, y.dtype, x.grad.dtype) == (x.shape, dtype, dtype)
    torch.testing.assert_close(x.detach(), before, **EXACT)
    assert all(tensor.isfinite().all() for tensor in state(layer)[0].values())
    # Beyond, a sum of squares leaves float32, and a multiple float16.
    bound = 100 if dtype == torch.float16 else 1e16
    if before.isfinite().all() and (before.abs() < bound).all():
        assert y.isfinite().all()


@given(st.data())
def test_a_contiguous_or_channels_last_input_gives_such_an_output(data):
    shape = data.draw(shapes())
    assume(min(shape[1:]) > 1)  # otherwise they are no two formats
    layer = data.draw(layers(shape[1]))
    x = data.draw(tensors(shape, torch.float64))
    assume(not is_refused(layer, x))
    y = layer(x)
    for format in (torch.contiguous_format, torch.channels_last):
        if x.is_contiguous(memory_format=format):
            assert y.is_contiguous(memory_format=format)
            break


WRONG = st.sampled_from(
    [
        None,
        1.0,
        [[1.0]],
        torch.ones(()),
        torch.ones(3),
        torch.ones(2, 3, 4),
        torch.ones(2, 3, 4, 4, 4),
        torch.ones(2, 4, 4, 4),
        torch.ones(2, 0, 4, 4),
        torch.ones(2, 3, 4, 4, dtype=torch.int32),
        torch.ones(2, 3, 4, 4, dtype=torch.bool),
        torch.ones(2, 3, 4, 4, dtype=torch.complex64),
        torch.ones(2, 3, 4, 4).to(torch.float8_e4m3fn),
        torch.ones(2, 3, 4, 4).to_sparse(),
    ]
)


@given(st.data())
def test_what_is_no_batch_of_maps_is_refused_and_changes_nothing(data):
    layer = data.draw(layers(3))
    assert is_refused(layer, data.draw(WRONG))


@given(st.data())
def test_keywords_are_taken_or_named(data):
    """Of any mix of good and bad values: the error names one that is bad."""
    norm = data.draw(st.sampled_from(FAMILY))
    good = data.draw(settings_of(norm, 4))
    bad = data.draw(st.fixed_dictionaries({}, optional=BAD))
    bad = {name: value for name, value in bad.items() if takes(norm, name)}
    if not bad:
        norm(4, **good)
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        norm(**({'num_features': 4} | good | bad))
    assert any(re.search(rf'\b{name}\b', str(caught.value)) for name in bad)


@given(st.data())
def test_gradients_are_the_same_however_the_graph_is_used(data):
    shape = data.draw(shapes())
    layer = data.draw(layers(shape[1]))
    x = data.draw(tensors(shape, torch.float64))
    upstream = data.draw(tensors(shape, torch.float64, kinds=['usual']))
    assume(not is_refused(layer, x))
    with data.draw(passes)():
        want = gradients(copy.deepcopy(layer), x, upstream)
        got = data.draw(st.sampled_from(USES))(layer, x, upstream)
    for ours, theirs in zip(got, want, strict=True):
        if ours is not None:  # not asked for
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def gradients(layer, x, upstream):
    """Of the input and of the parameters, in the plainest use."""
    x = x.clone().requires_grad_()
    layer(x).backward(upstream.clone())
    return [x.grad, *(parameter.grad for parameter in layer.parameters())]


def leaves(layer, x):
    return [x, *layer.parameters()]


def as_it_lies(layer, x, upstream):
    """Input and gradient as they lie in memory."""
    x = x.detach().requires_grad_()
    layer(x).backward(upstream)
    return [leaf.grad for leaf in leaves(layer, x)]


def retained(layer, x, upstream):
    """The graph is kept and used again."""
    x = x.detach().requires_grad_()
    y = layer(x)
    # What MABN and PowerNorm learn in backward is state: a second backward is another.
    again = type(layer) not in (MABN, PowerNorm)
    first = torch.autograd.grad(y, leaves(layer, x), upstream, retain_graph=again)
    if not again:
        return first
    second = torch.autograd.grad(y, leaves(layer, x), upstream)
    torch.testing.assert_close(first, second, **EXACT)
    return second


def other_calls_between(layer, x, upstream):
    """A copy is called, forward and backward, while the graph waits."""
    x = x.detach().requires_grad_()
    y = layer(x)
    other = copy.deepcopy(layer)
    other(x + 1).sum().backward()
    x.grad = None
    y.backward(upstream)
    return [leaf.grad for leaf in leaves(layer, x)]


def twice_in_a_graph(layer, x, upstream):
    """One layer, two calls, one backward: the gradients add up, each from its call."""
    layer.eval()
    want = gradients(copy.deepcopy(layer), x, upstream)
    x = x.detach().requires_grad_()
    (layer(x) + layer(x)).backward(upstream)
    halves = [leaf.grad / 2 for leaf in leaves(layer, x)]
    torch.testing.assert_close(halves, want)
    return [None] * len(halves)


def with_hooks(layer, x, upstream):
    """Hooks of all kinds see the call."""
    seen = []
    layer.register_forward_pre_hook(lambda *_: seen.append('before'))
    layer.register_forward_hook(lambda *_: seen.append('forward'))
    layer.register_full_backward_pre_hook(lambda *_: seen.append('into'))
    layer.register_full_backward_hook(lambda *_: seen.append('backward'))
    x = x.detach().requires_grad_()
    y = layer(x)
    y.register_hook(lambda grad: grad.clone())
    y.backward(upstream)
    assert seen == ['before', 'forward', 'into', 'backward']
    return [leaf.grad for leaf in leaves(layer, x)]


def frozen(layer, x, upstream):
    """Every second parameter wants no gradient."""
    parameters = list(layer.parameters())
    for parameter in parameters[::2]:
        parameter.requires_grad_(False)
    x = x.detach().requires_grad_()
    layer(x).backward(upstream)
    return [leaf.grad for leaf in leaves(layer, x)]


def of_parameters_alone(layer, x, upstream):
    """The input wants none."""
    y = layer(x)
    if not y.requires_grad:
        return [None] * len(leaves(layer, x))
    y.backward(upstream)
    return [leaf.grad for leaf in leaves(layer, x)]


def output_changed_in_place(layer, x, upstream):
    """Behind the layer, as by ``ReLU(inplace=True)``."""
    x = x.detach().requires_grad_()
    y = layer(x)
    y *= 3
    y.backward(upstream / 3)
    return [leaf.grad for leaf in leaves(layer, x)]


def input_changed_in_place(layer, x, upstream):
    """What backward needs is gone: PyTorch says so, or it was not needed."""
    x = x.detach().clone().requires_grad_()
    between = x * 1
    y = layer(between)
    return or_noticed(layer, x, y, upstream, between)


def parameters_changed_in_place(layer, x, upstream):
    """The same of an optimizer's step before the backward."""
    x = x.detach().requires_grad_()
    return or_noticed(layer, x, layer(x), upstream, *layer.parameters())


def or_noticed(layer, x, y, upstream, *changed):
    with torch.no_grad():
        for tensor in changed:
            tensor.add_(1)
    try:
        y.backward(upstream)
    except RuntimeError as error:
        assert re.search('modified (by an )?inplace', str(error))
        return [None] * len(leaves(layer, x))
    return [leaf.grad for leaf in leaves(layer, x)]


USES = [
    as_it_lies,
    retained,
    other_calls_between,
    twice_in_a_graph,
    with_hooks,
    frozen,
    of_parameters_alone,
    output_changed_in_place,
    input_changed_in_place,
    parameters_changed_in_place,
]
