"""The list of promises that every norm layer of the family keeps.

In the manner of torchmetrics' tester: a member's test class derives from
:class:`NormTester`, says what the member is, and gets a test of each promise. Its own
file holds what is special about it. ``tests/mm/test_family.py`` has the part that needs
the toolbox.
"""

import copy
import pickle
import warnings

import pytest
import torch
import torch.utils.checkpoint as cp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from helpers import definitions
from helpers.definition import Result, State
from helpers.layers import compare, images, shake, state_of
from helpers.one_process import assert_equals_one_process
from helpers.reads_back import ReadsBack
from ubn_mmdet import convert_batchnorm, reference_passes

MODES = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
# Arguments that every member refuses, and what the error has to say.
WRONG = [
    ({'num_features': 0}, 'num_features.*positive integer.*0'),
    ({'num_features': 2.0}, 'num_features.*positive integer.*2.0'),
    ({'eps': -1e-5}, 'eps.*finite number > 0.*-1e-05'),
    ({'eps': 0}, 'eps.*finite number > 0.*0'),
    ({'momentum': 1.5}, r'momentum.*None or within \[0, 1\].*1.5'),
    ({'affine': 'yes'}, 'affine.*True or False.*yes'),
    ({'track_running_stats': None}, 'track_running_stats.*None'),
    ({'sync': 1}, 'sync.*True or False.*1'),
    ({'sync_group_size': 0}, 'sync_group_size.*positive integer.*0'),
    ({'dtype': torch.int32}, 'dtype.*floating-point.*16 bits.*int32'),
    ({'dtype': torch.complex64}, 'dtype.*floating-point.*complex64'),
    ({'dtype': 'float32'}, "dtype.*floating-point.*'float32'"),
    ({'moment': 1.0}, "argument 'moment'"),
]
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}
SHAPES_OF_RANKS = {
    'unlike': [(3, 6, 4), (1, 4, 8)],
    'one empty': [(0, 6, 4), (2, 4, 8)],
    'both empty': [(0, 6, 4), (2, 0, 4)],
}
STEPS_OF_RANKS = 2
COMMON = {
    'eps': {'eps': 1e-2},
    'momentum': {'momentum': 0.7},
    'no momentum': {'momentum': None},
    'no affine': {'affine': False},
    'no statistics': {'track_running_stats': False},
}
EXACT = {'rtol': 0, 'atol': 0}


class NormTester:
    """Derive, name the class ``Test...``, and set what differs.

    Attributes:
        norm: The class under test.
        variants: Settings to test it with, by name; the first is the member's default.
            Tests with an argument ``settings`` run once for each, those with
            ``some_settings`` for the first and the last, which should differ most, those
            with ``batchnorm_settings`` for each that :meth:`is_batchnorm`.
        inexact: Names of the variants whose backward is not the derivative of their
            forward; gradients are compared with the definition's in any case.
        fresh_weight: What ``weight`` starts from by default.
        wrong: More settings that are refused, and what the error has to say.
        refuses: Names of the settings in ``COMMON`` that make no sense for it.
        compiles_since: The PyTorch from which one graph holds all of it.
        all_reduces_backward: Of a training step on several ranks; forward has one.
    """

    norm: type[nn.Module]
    variants: dict[str, dict] = {'default': {}}
    inexact: tuple[str, ...] = ()
    fresh_weight = 1.0
    wrong: list[tuple[dict, str]] = []
    refuses: tuple[str, ...] = ()
    compiles_since = '2.4'
    all_reduces_backward = 1
    channels = 4

    def define(self, layer: nn.Module, xs: list[Tensor], state: State) -> Result:
        """The member's definition on the batches of all ranks; not the package's code.

        Here that of a member of the package; another layer brings its own.
        """
        return definitions.define(layer, xs, state)

    def is_batchnorm(self, settings: dict) -> bool:
        """Whether a fresh layer so set is BatchNorm with the same state."""
        return True

    def make(self, settings: dict, dtype: torch.dtype = torch.float64, **common):
        """A fresh layer."""
        return self.norm(self.channels, dtype=dtype, **(settings | common))

    @property
    def default(self) -> dict:
        """The settings of the first variant."""
        return next(iter(self.variants.values()))

    def batchnorm(self, layer: nn.Module, **common) -> nn.BatchNorm2d:
        """A BatchNorm with what ``layer`` has of its parameters and statistics."""
        norm = nn.BatchNorm2d(
            layer.num_features,
            dtype=torch.float64,
            **({'affine': layer.affine, 'momentum': layer.momentum} | common),
        )
        norm.load_state_dict(layer.state_dict(), strict=False)
        return norm.train(layer.training)

    def trained(self, settings: dict, **common) -> nn.Module:
        """A float64 layer with all its state away from the start."""
        return shake(self.make(settings, **common))

    def images(self, n: int = 3, h: int = 6, w: int = 4, **how) -> Tensor:
        """A float64 batch."""
        return images(n, self.channels, h, w, **how)

    def compare(self, layer: nn.Module, x: Tensor, steps: int = 1, **tolerance) -> None:
        """Output, gradients and state are the definition's."""
        compare(layer, x, steps, self.define, **tolerance)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each variant."""
        if 'settings' in metafunc.fixturenames:
            variants = self.variants
            metafunc.parametrize('settings', variants.values(), ids=variants)
        if 'some_settings' in metafunc.fixturenames:
            names = [*self.variants]
            some = {name: self.variants[name] for name in (names[0], names[-1])}
            metafunc.parametrize('some_settings', some.values(), ids=some)
        if 'batchnorm_settings' in metafunc.fixturenames:
            own = {k: v for k, v in self.variants.items() if self.is_batchnorm(v)}
            metafunc.parametrize('batchnorm_settings', own.values(), ids=own)

    # --- numbers ----------------------------------------------------------------------

    @MODES
    def test_output_gradients_and_state_are_the_definitions(self, settings, training):
        layer = self.trained(settings).train(training)
        self.compare(layer, self.images(), steps=3)

    @MODES
    def test_so_they_are_in_the_reference_passes(self, some_settings, training):
        layer = self.trained(some_settings).train(training)
        with reference_passes():
            self.compare(layer, self.images(), steps=3)

    def test_the_common_settings_are_the_definitions_or_refused(self):
        for name, common in COMMON.items():
            if name in self.refuses:
                with pytest.raises(ValueError, match=next(iter(common))):
                    self.make(self.default, **common)
                continue
            for training in (True, False):
                layer = self.trained(self.default, **common).train(training)
                self.compare(layer, self.images(), steps=3)

    def test_gradcheck(self, settings):
        if settings in [self.variants[name] for name in self.inexact]:
            pytest.skip('its backward is not the derivative of its forward')
        layer = self.trained(settings)
        names = [name for name, _ in layer.named_parameters()]

        def forward(x, *parameters):  # from the same state each time
            state = {name: buffer.clone() for name, buffer in layer.named_buffers()}
            state |= zip(names, parameters, strict=True)
            return torch.func.functional_call(layer, state, (x,))

        x = self.images(2, 2, 4, alike=False).requires_grad_()
        parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
        assert torch.autograd.gradcheck(forward, (x, *parameters), fast_mode=True)

    @pytest.mark.parametrize(
        ('training', 'dtype', 'memory_format'),
        [
            (True, torch.float32, torch.channels_last),
            (True, torch.bfloat16, torch.contiguous_format),
            (True, torch.float16, torch.channels_last),
            (False, torch.bfloat16, torch.channels_last),
        ],
        ids=str,
    )
    def test_dtypes_and_memory_formats(
        self, some_settings, training, dtype, memory_format
    ):
        layer = self.trained(some_settings).train(training)
        x = self.images().to(dtype, memory_format=memory_format).requires_grad_()
        state = {name: value.clone() for name, value in layer.state_dict().items()}
        [expected], _ = self.define(layer, [x.detach().double()], state)
        y = layer.float()(x)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=memory_format)
        close = {'rtol': TOLERANCES[dtype], 'atol': TOLERANCES[dtype]}
        torch.testing.assert_close(y.double(), expected, **close)
        y.sum().backward()
        assert x.grad.dtype == dtype
        dtypes = {tensor.dtype for tensor in layer.state_dict().values()}
        assert dtypes <= {torch.float32, torch.int64}

    def test_autocast_does_not_reach_inside(self):
        # A convolution before the layer gives bfloat16 there.
        for dtype in (torch.float32, torch.bfloat16):
            layer = self.trained(self.default).float()
            again = copy.deepcopy(layer)
            x = self.images().to(dtype)
            for training in (True, False):
                expected = layer.train(training)(x)
                with torch.autocast('cpu', torch.bfloat16):
                    y = again.train(training)(x)
                assert y.dtype == dtype
                torch.testing.assert_close(y, expected, **EXACT)
            torch.testing.assert_close(again.state_dict(), layer.state_dict(), **EXACT)

    def test_large_means_keep_their_variance(self, some_settings):
        layer = self.make(some_settings, dtype=torch.float32)
        x = 3000 + self.images(4, 16, 16, alike=False).float()
        [expected], _ = self.define(
            layer.double(), [x.double()], dict(layer.double().state_dict())
        )
        y = layer.float()(x).double()
        torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)

    # --- start, BatchNorm's weights ---------------------------------------------------

    def test_it_starts_as_batchnorm_does(self):
        state = self.make(self.default, dtype=torch.float32).state_dict()
        for name, value in nn.BatchNorm2d(self.channels).state_dict().items():
            want = self.fresh_weight if name == 'weight' else value.flatten()[0]
            assert (state[name] == want).all()

    def test_a_converted_batchnorm_computes_what_it_did(self, batchnorm_settings):
        norm = shake(self.batchnorm(self.make(batchnorm_settings)))
        again = copy.deepcopy(norm)
        layer = convert_batchnorm(again, self.norm.__name__, **batchnorm_settings)
        assert type(layer) is self.norm
        assert_same_step(layer, norm, self.images())
        assert_same_step(layer.eval(), norm.eval(), self.images())

    def test_a_fresh_layer_is_batchnorm(self, batchnorm_settings):
        layer = self.make(batchnorm_settings)
        norm = self.batchnorm(layer)
        assert_same_step(layer, norm, self.images())
        assert_same_step(layer.eval(), norm.eval(), self.images())

    # --- state ------------------------------------------------------------------------

    def test_copies_go_on_alike(self, some_settings):
        layer = self.trained(some_settings)
        layer(self.images())
        restored = self.make(some_settings)
        restored.load_state_dict(layer.state_dict())
        copies = [restored, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
        batches = [self.images(seed=seed) for seed in range(3)]
        expected = [layer(x) for x in batches]
        for module in copies:
            torch.testing.assert_close([module(x) for x in batches], expected, **EXACT)
            torch.testing.assert_close(module.state_dict(), layer.state_dict(), **EXACT)

    def test_every_lost_entry_of_a_checkpoint_is_reported(self):
        layer = self.trained(self.default)
        state = layer.state_dict()
        norm = nn.BatchNorm2d(self.channels)
        for lost in state.keys() - {'num_batches_tracked'}:
            rest = {name: value for name, value in state.items() if name != lost}
            result = self.make(self.default).load_state_dict(rest, strict=False)
            is_batchnorm = rest.keys() == norm.state_dict().keys()  # which has no more
            assert result.missing_keys == ([] if is_batchnorm else [lost])

    def test_reset_starts_anew(self, some_settings):
        torch.manual_seed(0)
        fresh = self.make(some_settings).state_dict()
        layer = self.trained(some_settings)
        layer(self.images())
        torch.manual_seed(0)
        layer.reset_parameters()
        torch.testing.assert_close(layer.state_dict(), fresh, **EXACT)
        layer(self.images())
        layer.reset_running_stats()
        torch.testing.assert_close(layer.state_dict(), fresh, **EXACT)

    def test_activation_checkpointing_changes_nothing(self, settings):
        assert_checkpointing_changes_nothing(self.trained(settings), self.images())

    def test_reentrant_checkpointing_changes_nothing(self, some_settings):
        layer = self.trained(some_settings)
        assert_checkpointing_changes_nothing(layer, self.images(), use_reentrant=True)

    def test_a_layer_shared_by_levels_goes_backward(self):
        layer = self.trained(self.default)
        state = state_of(layer)
        sizes = [(6, 4), (3, 2), (2, 6)]
        xs = [self.images(3, *size).requires_grad_() for size in sizes]
        sum(layer(x).square().sum() for x in xs).backward()
        total = 0
        for x in xs:
            [y], state = self.define(layer, [x], state)
            total = total + y.square().sum()
        names = [name for name, _ in layer.named_parameters()]
        leaves = [*xs, *(state[name] for name in names)]
        ours = [leaf.grad for leaf in (*xs, *layer.parameters())]
        torch.testing.assert_close(ours, list(torch.autograd.grad(total, leaves)))

    # --- ranks ------------------------------------------------------------------------

    def test_two_ranks_equal_one_process(self, settings, two_ranks):
        results = self.assert_ranks_equal_one_process(two_ranks, settings, 'unlike')
        of_a_step = 1 + self.all_reduces_backward
        for result in results:
            assert result['collectives'] == ['all_reduce'] * of_a_step * STEPS_OF_RANKS

    @pytest.mark.parametrize('shapes', ['one empty', 'both empty'])
    def test_ranks_without_elements(self, some_settings, shapes, two_ranks):
        self.assert_ranks_equal_one_process(two_ranks, some_settings, shapes)

    def assert_ranks_equal_one_process(
        self, ranks, settings: dict, shapes: str
    ) -> list[dict]:
        """Each rank has its part of the definition on all, and the very same state."""
        shapes = SHAPES_OF_RANKS[shapes]
        xs = [self.images(*shape, seed=seed) for seed, shape in enumerate(shapes)]
        layer = self.trained(settings)
        results = assert_equals_one_process(
            ranks, layer, xs, STEPS_OF_RANKS, self.define
        )
        torch.testing.assert_close(*[r['buffers'] for r in results], **EXACT)
        return results

    # --- input of all kinds -----------------------------------------------------------

    @pytest.mark.parametrize('shape', [(0, 6, 4), (2, 0, 4)])
    def test_an_empty_batch_passes_and_leaves_the_state_alone(
        self, some_settings, shape
    ):
        for training in (True, False):
            layer = self.trained(some_settings).train(training)
            before = copy.deepcopy(layer.state_dict())
            x = self.images(*shape).requires_grad_()
            y = layer(x)
            assert y.shape == x.shape
            y.sum().backward()
            for parameter in layer.parameters():  # as data-parallel training wants
                assert torch.equal(parameter.grad, torch.zeros_like(parameter))
            torch.testing.assert_close(layer.state_dict(), before, **EXACT)

    def test_a_bad_batch_leaves_the_statistics_alone(self, settings):
        layer = self.trained(settings)
        before = copy.deepcopy(layer.state_dict())
        for value in (torch.inf, torch.nan):
            bad = self.images()
            bad[1, 1, 2, 2] = value
            layer(bad)
            torch.testing.assert_close(layer.state_dict(), before, **EXACT)
        self.compare(layer, self.images())

    def test_one_value_per_channel_is_refused_in_training_alone(self):
        x = self.images(1, 1, 1)
        layer = self.trained(self.default)
        if self.is_batchnorm(self.default):
            with pytest.raises(ValueError, match='more than 1 value per channel'):
                layer(x)
        if self.is_batchnorm(self.default) and 'no statistics' not in self.refuses:
            with pytest.raises(ValueError, match='more than 1 value per channel'):
                self.make(self.default, track_running_stats=False).eval()(x)
        assert layer.eval()(x).isfinite().all()

    # --- neighbours, compilers --------------------------------------------------------

    @pytest.mark.parametrize(
        ('training', 'dtype', 'memory_format'),
        [
            (True, torch.float32, torch.contiguous_format),
            (False, torch.bfloat16, torch.channels_last),
        ],
        ids=str,
    )
    def test_in_place_neighbours_change_nothing(
        self, some_settings, training, dtype, memory_format
    ):
        x = self.images().to(dtype, memory_format=memory_format)
        results = []
        for kind in (Block, OutOfPlace):
            norms = self.trained(some_settings), self.trained(some_settings)
            block = kind(*norms).float()
            results.append(block.train(training).step(x))
        torch.testing.assert_close(*results, **EXACT)

    def test_the_host_waits_for_nothing(self, settings):
        for training in (True, False):
            layer = self.trained(settings).train(training)
            x = self.images().requires_grad_()
            with ReadsBack():
                layer(x).sum().backward()
            # A meta tensor has no data: any branch on data raises.
            layer.to('meta')
            x = x.detach().to('meta').requires_grad_()
            with ReadsBack():
                layer(x).sum().backward()
            assert x.grad.shape == x.shape

    def test_it_compiles_into_one_graph(self):
        pytest.importorskip('torch', minversion=self.compiles_since)
        # PyTorch 2.13 loses changes of a 0-dimensional float64 buffer behind aot_eager.
        layer = self.trained(self.default).float()
        again = copy.deepcopy(layer)
        torch.compiler.reset()
        compiled = torch.compile(again, backend='aot_eager', fullgraph=True)
        for seed in range(2):
            x = self.images(seed=seed).float()
            ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
            y, want = compiled(ours), layer(theirs)
            torch.testing.assert_close(y, want)
            y.square().sum().backward()
            want.square().sum().backward()
            # Of float32 sums in another order.
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(again.state_dict(), layer.state_dict())
        compiled.eval()
        torch.testing.assert_close(compiled(x), layer.eval()(x))

    def test_a_trace_holds_for_other_sizes_and_saves(self, some_settings, tmp_path):
        layer = self.trained(some_settings).float().eval()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', DeprecationWarning)
            warnings.simplefilter('error', torch.jit.TracerWarning)
            traced = torch.jit.trace(layer, self.images(2).float())  # checks itself
            traced.save(tmp_path / 'traced.pt')
            traced = torch.jit.load(tmp_path / 'traced.pt')
        x = self.images(3, 4, 10).float()
        torch.testing.assert_close(traced(x), layer(x))

    # --- interface --------------------------------------------------------------------

    def test_interface_that_the_toolbox_goes_by(self):
        assert _BatchNorm in self.norm.__bases__  # it looks at immediate bases
        assert self.norm._abbr_ == 'bn'

    def test_senseless_arguments_raise_at_construction(self):
        for settings, named in (*WRONG, *self.wrong):
            with pytest.raises((ValueError, TypeError), match=named):
                self.norm(**({'num_features': 8} | self.default | settings))


class Block(nn.Module):
    """A residual block: a norm before an in-place ReLU, one before an in-place sum."""

    def __init__(self, norm1: nn.Module, norm2: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm1, norm2
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(x))
        out = self.norm2(out)
        out += x
        return self.relu(out)

    def step(self, x: Tensor) -> list[Tensor]:
        """Output and gradients."""
        x = x.clone().requires_grad_()
        y = self(x)
        y.sum().backward()
        return [y.detach(), x.grad, *(p.grad for p in self.parameters())]


class OutOfPlace(Block):
    """The same without a change in place."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm2(self.norm1(x).relu()) + x).relu()


def assert_checkpointing_changes_nothing(
    layer: nn.Module, x: Tensor, use_reentrant: bool = False
) -> None:
    """Of two steps the gradients, and the state after them."""
    again = copy.deepcopy(layer)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    for _ in range(2):
        y = cp.checkpoint(again, ours, use_reentrant=use_reentrant)
        y.square().sum().backward()
        layer(theirs).square().sum().backward()
    torch.testing.assert_close(again.state_dict(), layer.state_dict(), **EXACT)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert_same_gradients(again, layer)


def assert_same_step(layer: nn.Module, norm: nn.BatchNorm2d, x: Tensor) -> None:
    """Output, the gradients that both have, and running statistics are equal."""
    close = {'rtol': 1e-10, 'atol': 1e-12}
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = layer(ours), norm(theirs)
    torch.testing.assert_close(y, expected, **close)
    gradient = images(*x.shape, seed=1)
    y.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(ours.grad, theirs.grad, **close)
    assert_same_gradients(layer, norm, **close)
    buffers = dict(layer.named_buffers())
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, **close)


def assert_same_gradients(layer: nn.Module, norm: nn.Module, **close: float) -> None:
    """The gradients of the parameters of ``norm``, all of which ``layer`` has."""
    own = dict(layer.named_parameters())
    for name, parameter in norm.named_parameters():
        torch.testing.assert_close(own[name].grad, parameter.grad, **close)
