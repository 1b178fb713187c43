"""Forwards in a backward: activation checkpointing repeats one, a hook makes a new one."""

import copy
import threading

import pytest
import torch
import torch.utils.checkpoint as cp
from helpers.layers import images, shake
from torch import nn

from ubn_mmdet import MABN, UBN, BatchRenorm, PowerNorm, padded_images, reference_passes
from ubn_mmdet.ops.recompute import REMEMBERED, remembered

REENTRANT = pytest.mark.parametrize('reentrant', [True, False])
# Each with a state that its second call finds changed by the first.
LAYERS = {
    'UBN': lambda: UBN(2, condensation_threshold=0.9),  # open, then closed
    'BatchRenorm': lambda: BatchRenorm(2, plain_steps=0, r_steps=0, d_steps=0),
    'MABN': lambda: MABN(2, memory_size=2, warmup_steps=0, renorm_steps=0),
    'PowerNorm': lambda: PowerNorm(2, warmup_steps=0),
}
WHICH = pytest.mark.parametrize('make', LAYERS.values(), ids=LAYERS)


def trained(make):
    layer = shake(make().double())
    layer(images(3, 2, 4, 4, seed=9)).sum().backward()
    layer.zero_grad()
    return layer


def step(layer, xs, run):
    """A layer called once on each input, the results together in one loss."""
    xs = [x.clone().requires_grad_() for x in xs]
    loss = sum(run(layer, x).pow(3).sum() for x in xs)
    loss.backward()
    return [x.grad for x in xs] + [p.grad for p in layer.parameters()]


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def assert_repeats(make, xs, plain, repeated):
    """A step of one layer and a step of its copy give the same, and leave the same."""
    layer = trained(make)
    again = copy.deepcopy(layer)
    want, got = step(layer, xs, plain), step(again, xs, repeated)
    assert_same(got, want)
    assert_same(dict(again.named_buffers()), dict(layer.named_buffers()))


def once(layer, x):
    return layer(x)


def twice(layer, x):
    return layer(torch.tanh(layer(x)))


def within(layer, x):
    return layer(x.sin()).sin()


def checkpointed(call, reentrant):
    return lambda layer, x: cp.checkpoint(call, layer, x, use_reentrant=reentrant)


@REENTRANT
@WHICH
def test_each_call_of_a_layer_is_repeated_with_its_own_state(make, reentrant):
    xs = [images(3, 2, 4, 4, seed=seed, alike=seed == 0) for seed in range(3)]
    assert_repeats(make, xs, once, checkpointed(once, reentrant))


@REENTRANT
@WHICH
def test_two_calls_within_one_segment(make, reentrant):
    x = images(3, 2, 4, 4)
    assert_repeats(make, [x], twice, checkpointed(twice, reentrant))


@REENTRANT
@WHICH
def test_a_checkpoint_within_another(make, reentrant):
    """The inner one is repeated in both repetitions."""
    inner = checkpointed(once, reentrant)
    outer = checkpointed(lambda layer, x: inner(layer, x.sin()).sin(), False)
    assert_repeats(make, [images(3, 2, 4, 4)], within, outer)


@WHICH
def test_a_checkpoint_in_a_compiled_function(make):
    """As docs/compatibility.md says it works: the checkpoint itself is not compiled."""
    apart = torch.compiler.disable(cp.checkpoint)
    compiled = torch.compile(
        lambda layer, x: apart(layer, x.sin(), use_reentrant=False).sin(),
        backend='aot_eager',
    )
    assert_repeats(make, [images(3, 2, 4, 4)], within, compiled)


@REENTRANT
def test_calls_on_one_and_the_same_input_are_told_apart(reentrant):
    xs = [images(3, 2, 4, 4)] * 3
    assert_repeats(LAYERS['BatchRenorm'], xs, once, checkpointed(once, reentrant))


def test_a_call_with_nan_leaves_the_others_to_be_found():
    layer = trained(LAYERS['BatchRenorm'])
    again = copy.deepcopy(layer)
    x = images(3, 2, 4, 4)
    want = step(layer, [x], lambda layer, x: layer(x))
    with torch.no_grad():
        again(torch.full_like(x, torch.nan))
    got = step(
        again, [x], lambda layer, x: cp.checkpoint(layer, x, use_reentrant=False)
    )
    assert_same(got, want)


@WHICH
def test_a_forward_made_in_a_backward_hook_counts(make):
    layer = trained(make)
    again = copy.deepcopy(layer)
    x, inside = images(3, 2, 4, 4), images(3, 2, 4, 4, seed=1)

    y = layer(x)
    expected = layer(inside)
    seen = []
    leaf = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    leaf.register_hook(lambda grad: seen.append(again(inside)))
    (again(x).sum() + leaf).backward()

    assert_same(seen[0].detach(), expected.detach())
    y.sum().backward()
    names = {'running_mean', 'running_var', 'num_batches_tracked', 'condensation'}
    for name, buffer in layer.named_buffers():
        if name in names:
            assert_same(again.get_buffer(name), buffer)


def backward_in_a_thread(loss):
    errors = []

    def run():
        try:
            loss.backward()
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors, errors


def test_a_choice_of_passes_holds_for_a_repetition_elsewhere():
    layer, x = trained(LAYERS['UBN']), images(3, 2, 4, 4).requires_grad_()
    with reference_passes():
        y = cp.checkpoint(layer, x, use_reentrant=False)
    backward_in_a_thread(y.sum())  # CheckpointError where other passes ran


def test_announced_images_hold_for_a_repetition_elsewhere():
    layer, x = trained(LAYERS['UBN']), images(2, 2, 4, 4)
    again = copy.deepcopy(layer)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    with padded_images([(4, 4), (3, 2)], (4, 4)):
        y = cp.checkpoint(again, ours, use_reentrant=False)
        want = layer(theirs)
    other = images(2, 2, 5, 5)
    with padded_images([(1, 1), (1, 1)], (5, 5)):
        layer(other), again(other)
    backward_in_a_thread(y.pow(3).sum())
    want.pow(3).sum().backward()
    assert_same(ours.grad, theirs.grad)


def test_a_setting_that_is_made_anew_is_the_newest():
    layer, setting = nn.Module(), object()
    sizes = range(1, 2 * REMEMBERED + 1)
    for size in (*sizes, 1, *(-s for s in sizes[1:])):
        remembered(layer, 'name', setting, torch.empty(abs(size), 1 + (size < 0)))
    kept = layer.__dict__['_remembered_settings']
    assert len(kept) == 2 * REMEMBERED
    assert ('name', (1, 1)) in kept and ('name', (2, 1)) not in kept


def test_copies_and_pickles_have_no_memory():
    layer = trained(LAYERS['UBN'])
    assert layer._calls._calls
    assert not copy.deepcopy(layer)._calls._calls


def test_a_gate_that_is_set_in_between_moves_its_state_once():
    layer, x = trained(LAYERS['UBN']), images(3, 2, 4, 4).requires_grad_()
    before = int(layer.num_batches_tracked)
    y = cp.checkpoint(layer, x, use_reentrant=False)
    layer.condensation_threshold = 0.1
    y.sum().backward()
    assert layer.num_batches_tracked == before + 1
