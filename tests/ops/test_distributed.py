"""Statistics merged over gloo ranks, against one process with all the batches."""

import copy
import io
import pickle
from contextlib import nullcontext

import pytest
import torch
import torch.multiprocessing as mp
from helpers import definition
from helpers.layers import OFF, images, state_of, trained
from helpers.one_process import FLOAT64, assert_equals_one_process, step
from helpers.ranks import Ranks, process_group
from torch import nn
from torch.autograd import forward_ad
from torch.nn.parallel import DistributedDataParallel

from ubn_mmdet import UBN
from ubn_mmdet.ops.statistics import sync_group

FLOAT32 = {'rtol': 1e-5, 'atol': 1e-5}

# Each rank's (N, H, W).
LIKE = [(2, 6, 5), (2, 6, 5), (2, 6, 5)]
UNLIKE = [(3, 6, 5), (1, 4, 7), (2, 9, 3)]
ONE_EACH = [(1, 6, 5), (1, 4, 7), (1, 9, 3)]
ONE_EMPTY = [(3, 6, 5), (0, 14, 14), (2, 9, 3)]
ONE_WITHOUT_POSITIONS = [(3, 6, 5), (2, 0, 5), (2, 9, 3)]
FIRST_EMPTY = [(0, 6, 5), (1, 4, 7), (0, 6, 5)]
ALL_EMPTY = [(0, 6, 5)] * 3


@pytest.fixture(scope='module')
def three(tmp_path_factory):
    ranks = Ranks(3, tmp_path_factory.mktemp('ranks'))
    yield ranks
    ranks.close()


def batches(shapes, alike=True):
    return [
        images(n, 3, h, w, alike=alike, seed=rank)
        for rank, (n, h, w) in enumerate(shapes)
    ]


@pytest.mark.parametrize('feature', ['flat', 'pooled'])
@pytest.mark.parametrize(
    'shapes',
    [LIKE, UNLIKE, ONE_EACH, ONE_EMPTY, ONE_WITHOUT_POSITIONS, FIRST_EMPTY, ALL_EMPTY],
    ids=[
        'like',
        'unlike',
        'one each',
        'one empty',
        'no positions',
        'first empty',
        'empty',
    ],
)
def test_ranks_equal_one_process(three, feature, shapes):
    layer = trained(condensation_feature=feature)
    assert_ranks_equal_one_process(three, layer, batches(shapes))


@pytest.mark.parametrize('feature', ['flat', 'pooled'])
def test_ranks_with_the_gate_closed(three, feature):
    layer = trained(condensation_feature=feature, condensation_threshold=0.99)
    results = assert_ranks_equal_one_process(three, layer, batches(UNLIKE, alike=False))
    assert not results[0]['buffers']['num_batches_tracked']


def assert_ranks_equal_one_process(ranks, layer, xs):
    """And have the very same state."""
    results = assert_equals_one_process(ranks, layer, xs)
    for result in results[1:]:
        torch.testing.assert_close(
            result['buffers'], results[0]['buffers'], rtol=0, atol=0
        )
    return results


def test_float32_on_ranks(three):
    layer = trained().float()
    xs = [x.float() for x in batches(UNLIKE, alike=False)]
    assert_equals_one_process(three, layer, xs, **FLOAT32)


@pytest.mark.parametrize('mean', [1e4, -1e3])
def test_large_means_on_ranks_keep_their_variance(three, mean):
    # Of a fresh layer: nothing to take the sums about.
    layer = UBN(3, momentum=1.0, **OFF)
    xs = [(mean + 1e-2 * x).float() for x in batches(UNLIKE, alike=False)]
    results = three.run(step, [(layer, x, torch.ones_like(x), 1) for x in xs])
    elements = torch.cat([x.double().transpose(0, 1).flatten(1) for x in xs], dim=1)
    want = elements.var(1)
    for result in results:
        var = result['buffers']['running_var'].double()
        torch.testing.assert_close(var, want, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ('settings', 'numbers'),
    [
        # Of C channels, forward and backward: the table of docs/distributed.md.
        ({}, lambda c: [2 * c + 3, 2 * c]),
        ({'condensation_feature': 'pooled'}, lambda c: [3 * c + 3, 2 * c]),
        (OFF, lambda c: [2 * c + 1, 2 * c]),
    ],
    ids=['all', 'pooled', 'all off'],
)
def test_one_collective_forward_and_one_backward(two_ranks, settings, numbers):
    layer = trained(**settings)
    xs = batches(UNLIKE)[:2]
    results = two_ranks.run(step, [(layer, x, torch.ones_like(x), 1) for x in xs])
    for result in results:
        assert result['collectives'] == ['all_reduce', 'all_reduce']
        assert result['sent'] == numbers(layer.num_features)


@pytest.mark.parametrize('settings', [{'sync': False}, {'sync_group_size': 1}])
def test_unsynchronised_ranks_are_on_their_own(two_ranks, settings):
    layer = trained(**settings)
    xs = batches(UNLIKE)[:2]
    results = two_ranks.run(step, [(layer, x, torch.ones_like(x), 1) for x in xs])
    for x, result in zip(xs, results, strict=True):
        expected, state = definition.ubn(x, state_of(layer), training=True)
        torch.testing.assert_close(result['y'], expected, **FLOAT64)
        torch.testing.assert_close(
            result['buffers']['running_mean'], state['running_mean']
        )
        assert result['collectives'] == []


def forward_mode_error(x):
    with forward_ad.dual_level():
        try:
            trained()(forward_ad.make_dual(x, torch.ones_like(x)))
        except RuntimeError as error:
            return str(error)


def test_forward_mode_is_refused_where_ranks_merge(two_ranks):
    for message in two_ranks.run(forward_mode_error, batches(UNLIKE)[:2]):
        assert 'jvp' in message


def test_evaluation_takes_part_in_nothing(two_ranks):
    layer = trained().eval()
    xs = batches(UNLIKE)[:2]
    results = two_ranks.run(step, [(layer, x, torch.ones_like(x), 1) for x in xs])
    for x, result in zip(xs, results, strict=True):
        expected, _ = definition.ubn(x, state_of(layer), training=False)
        torch.testing.assert_close(result['y'], expected, **FLOAT64)
        assert result['collectives'] == []


def forward_in_groups(x):
    if x is None:  # a rank that skips the layer
        return None
    layer = trained(sync_group_size=2)
    y = layer(x)
    again = pickle.loads(pickle.dumps(copy.deepcopy(layer)))  # no group on the module
    torch.testing.assert_close(again(x), layer(x))
    return y.detach()


@pytest.mark.slow
def test_groups_of_consecutive_ranks(tmp_path):
    ranks = Ranks(4, tmp_path)
    xs = batches([*UNLIKE, (2, 5, 5)])
    # A group does not wait for ranks of another, which may never come to the layer.
    skipping = ranks.run(forward_in_groups, [*xs[:2], None, None])
    ys = ranks.run(forward_in_groups, xs)
    ranks.close()
    torch.testing.assert_close(skipping[:2], ys[:2], rtol=0, atol=0)
    for pair in (slice(0, 2), slice(2, 4)):
        expected, _ = definition.ubn_of_ranks(
            xs[pair], state_of(trained()), training=True
        )
        for y, want in zip(ys[pair], expected, strict=True):
            torch.testing.assert_close(y, want, **FLOAT64)


def group_error(size):
    try:
        sync_group(size)
    except ValueError as error:
        return str(error)


def test_a_group_size_that_does_not_divide_the_ranks_raises(three):
    message = three.run(group_error, [2, 2, 2])[0]
    assert message == 'sync_group_size must divide the number of ranks, 3, got 2'


def test_alone_it_is_the_local_layer(tmp_path):
    assert sync_group() is None
    assert sync_group(8) is None
    store = torch.distributed.FileStore(str(tmp_path / 'store'), 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        assert sync_group(8) is None
    finally:
        torch.distributed.destroy_process_group()


class Net(nn.Module):
    """Two convolutions, each with a UBN behind it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        # 'flat' compares within a rank alone, which one process does not do.
        settings = {'condensation_feature': 'pooled'}
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            UBN(4, **settings),
            nn.ReLU(),
            nn.Conv2d(4, 3, 3, padding=1),
            UBN(3, initial_spatial='kaiming', **settings),
        ).double()

    def forward(self, x):
        return self.layers(x)


def train_net(task):
    """Two optimizer steps under DDP, the first over two accumulated micro-batches."""
    micro_batches, last, state = task
    net = Net()
    if state is not None:
        net.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
    model = DistributedDataParallel(net, broadcast_buffers=False)
    return optimize(net, model, micro_batches, last, model.no_sync)


def optimize(net, model, micro_batches, last, no_sync):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.zero_grad()
    with no_sync():
        model(micro_batches[0]).square().mean().backward()
    model(micro_batches[1]).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    model(last).square().mean().backward()
    optimizer.step()
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    return buffer.getvalue()


def test_data_parallel_training_with_accumulation_and_checkpoints(two_ranks):
    """Two ranks equal one process with the double batch; so do their checkpoints.

    Two optimizer steps on two ranks, two more from that checkpoint on one process, and
    two more from that one on two ranks, against six on one process.
    """
    xs = [images(4, 3, 6, 5, seed=seed) for seed in range(9)]

    def on_ranks(three_batches, state):
        halves = [[x[:2], x[2:]] for x in three_batches]
        tasks = [
            ((halves[0][rank], halves[1][rank]), halves[2][rank], state)
            for rank in range(2)
        ]
        states = two_ranks.run(train_net, tasks)
        loaded = [torch.load(io.BytesIO(s), weights_only=True) for s in states]
        torch.testing.assert_close(*loaded, rtol=0, atol=0)
        return states[0]

    def on_one(net, three_batches):
        *micro_batches, last = three_batches
        return optimize(net, net, micro_batches, last, nullcontext)

    reference = Net()
    for thirds in (xs[:3], xs[3:6], xs[6:]):
        expected = on_one(reference, thirds)
    state = on_ranks(xs[:3], None)
    net = Net()
    net.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
    state = on_one(net, xs[3:6])
    state = on_ranks(xs[6:], state)
    ours, theirs = (
        torch.load(io.BytesIO(s), weights_only=True) for s in (state, expected)
    )
    torch.testing.assert_close(ours, theirs, **FLOAT64)


def fail_on_rank_one(rank, store):
    with process_group(rank, 2, store, seconds=30):
        layer = trained()
        if rank == 1:
            raise RuntimeError('rank one gives up')
        layer(images(2, 3, 4, 4))


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_others(tmp_path):
    context = mp.spawn(
        fail_on_rank_one, (str(tmp_path / 'store'),), nprocs=2, join=False
    )
    with pytest.raises(Exception, match='rank one gives up|onnection|reset|closed'):
        while not context.join(timeout=60):
            pass
    assert all(process.exitcode for process in context.processes)
