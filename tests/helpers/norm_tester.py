"""The list of promises that every norm layer of the family keeps.

In the manner of torchmetrics' tester: a member's test class derives from
:class:`NormTester`, says what the member is, and gets a test of each promise. Its own
file holds what is special about it. ``toolbox_tester.py`` has the part that needs the
toolbox.
"""

import copy
import pickle
import warnings
from contextlib import nullcontext

import pytest
import torch
import torch.utils.checkpoint as cp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from helpers.definition import State
from helpers.layers import Result, compare, images, shake
from helpers.one_process import assert_equals_one_process
from helpers.reads_back import ReadsBack
from ubn_mmdet import convert_batchnorm, reference_passes

MODES = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
FORMATS = pytest.mark.parametrize(
    'memory_format', [torch.contiguous_format, torch.channels_last], ids=str
)
PASSES = pytest.mark.parametrize('passes', [nullcontext, reference_passes])
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
            ``batchnorm_settings`` for each that :meth:`is_batchnorm`.
        fresh_weight: What ``weight`` starts from by default.
        wrong: Settings that are refused, and what the error has to say.
        refuses: Names of the settings in ``COMMON`` that make no sense for it.
        gradient_is_exact: Whether backward is the derivative of forward; gradients are
            compared with the definition's in any case.
        compiles_since: The PyTorch from which one graph holds all of it.
    """

    norm: type[nn.Module]
    variants: dict[str, dict] = {'default': {}}
    fresh_weight = 1.0
    wrong: list[tuple[dict, str]] = []
    refuses: tuple[str, ...] = ()
    gradient_is_exact = True
    compiles_since = '2.4'
    channels = 4

    def define(self, layer: nn.Module, xs: list[Tensor], state: State) -> Result:
        """The member's definition on the batches of all ranks; not the package's code."""
        raise NotImplementedError

    def is_batchnorm(self, settings: dict) -> bool:
        """Whether a fresh layer so set is BatchNorm with the same state."""
        return True

    def skip_if_refused(self, common: dict) -> None:
        """Skip a test of settings that make no sense, once they are refused."""
        if common in [COMMON[name] for name in self.refuses]:
            with pytest.raises(ValueError, match=next(iter(common))):
                self.make(self.default, **common)
            pytest.skip('refused')

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
        if 'batchnorm_settings' in metafunc.fixturenames:
            own = {k: v for k, v in self.variants.items() if self.is_batchnorm(v)}
            metafunc.parametrize('batchnorm_settings', own.values(), ids=own)

    # --- numbers ----------------------------------------------------------------------

    @PASSES
    @MODES
    def test_output_gradients_and_state_are_the_definitions(
        self, settings, training, passes
    ):
        layer = self.trained(settings).train(training)
        with passes():
            self.compare(layer, self.images(), steps=3)

    @MODES
    @pytest.mark.parametrize('common', COMMON.values(), ids=COMMON)
    def test_the_common_settings_are_the_definitions(self, training, common):
        self.skip_if_refused(common)
        layer = self.trained(self.default, **common).train(training)
        self.compare(layer, self.images(), steps=3)

    @MODES
    def test_gradcheck(self, settings, training):
        if not self.gradient_is_exact:
            pytest.skip('its backward is not the derivative of its forward')
        layer = self.trained(settings).train(training)
        names = [name for name, _ in layer.named_parameters()]

        def forward(x, *parameters):  # from the same state each time
            state = {name: buffer.clone() for name, buffer in layer.named_buffers()}
            state |= zip(names, parameters, strict=True)
            return torch.func.functional_call(layer, state, (x,))

        x = self.images(2, 2, 4, alike=False).requires_grad_()
        parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
        assert torch.autograd.gradcheck(forward, (x, *parameters), fast_mode=True)

    @FORMATS
    @pytest.mark.parametrize(
        ('dtype', 'tolerance'),
        [(torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)],
        ids=str,
    )
    @MODES
    def test_dtypes_and_memory_formats(
        self, settings, training, dtype, tolerance, memory_format
    ):
        layer = self.trained(settings).train(training)
        x = self.images().to(dtype, memory_format=memory_format).requires_grad_()
        state = {name: value.clone() for name, value in layer.state_dict().items()}
        [expected], _ = self.define(layer, [x.detach().double()], state)
        y = layer.float()(x)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
        y.sum().backward()
        assert x.grad.dtype == dtype
        dtypes = {tensor.dtype for tensor in layer.state_dict().values()}
        assert dtypes <= {torch.float32, torch.int64}

    def test_autocast_does_not_reach_inside(self, settings):
        layer = self.trained(settings).float().eval()
        x = self.images().float()
        outside = layer(x)
        with torch.autocast('cpu', torch.bfloat16):
            torch.testing.assert_close(layer(x), outside, **EXACT)

    def test_large_means_keep_their_variance(self, settings):
        layer = self.make(settings, dtype=torch.float32)
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

    @MODES
    def test_a_fresh_layer_is_batchnorm(self, batchnorm_settings, training):
        layer = self.make(batchnorm_settings).train(training)
        assert_same_step(layer, self.batchnorm(layer), self.images())

    @MODES
    @pytest.mark.parametrize('common', COMMON.values(), ids=COMMON)
    def test_the_common_settings_are_batchnorms(
        self, batchnorm_settings, training, common
    ):
        self.skip_if_refused(common)
        layer = self.make(batchnorm_settings, **common).train(training)
        assert_same_step(layer, self.batchnorm(layer, **common), self.images())

    def test_a_batchnorm_checkpoint_loads_strictly(self, batchnorm_settings):
        layer = self.make(batchnorm_settings)
        norm = shake(self.batchnorm(layer))
        result = layer.load_state_dict(norm.state_dict(), strict=True)
        assert not result.missing_keys and not result.unexpected_keys
        x = self.images()
        torch.testing.assert_close(layer.eval()(x), norm.eval()(x))

    # --- state ------------------------------------------------------------------------

    def test_copies_go_on_alike(self, settings):
        layer = self.trained(settings)
        layer(self.images())
        restored = self.make(settings)
        restored.load_state_dict(layer.state_dict())
        copies = [restored, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
        batches = [self.images(seed=seed) for seed in range(3)]
        expected = [layer(x) for x in batches]
        for module in copies:
            torch.testing.assert_close([module(x) for x in batches], expected, **EXACT)
            torch.testing.assert_close(module.state_dict(), layer.state_dict(), **EXACT)

    def test_every_lost_entry_of_a_checkpoint_is_reported(self, settings):
        layer = self.trained(settings)
        state = layer.state_dict()
        norm = nn.BatchNorm2d(self.channels, affine=layer.affine)
        for lost in state.keys() - {'num_batches_tracked'}:
            rest = {name: value for name, value in state.items() if name != lost}
            result = self.make(settings).load_state_dict(rest, strict=False)
            is_batchnorm = rest.keys() == norm.state_dict().keys()  # which has no more
            assert result.missing_keys == ([] if is_batchnorm else [lost])

    def test_reset_starts_anew(self, settings):
        torch.manual_seed(0)
        fresh = self.make(settings).state_dict()
        layer = self.trained(settings)
        layer(self.images())
        torch.manual_seed(0)
        layer.reset_parameters()
        torch.testing.assert_close(layer.state_dict(), fresh, **EXACT)
        layer(self.images())
        layer.reset_running_stats()
        torch.testing.assert_close(layer.state_dict(), fresh, **EXACT)

    def test_evaluation_leaves_the_state_alone(self, settings):
        layer = self.trained(settings).eval()
        before = copy.deepcopy(layer.state_dict())
        layer(self.images().requires_grad_()).sum().backward()
        torch.testing.assert_close(layer.state_dict(), before, **EXACT)

    @pytest.mark.parametrize('reentrant', [True, False])
    def test_activation_checkpointing_changes_nothing(self, settings, reentrant):
        layer = self.trained(settings)
        again = copy.deepcopy(layer)
        ours, theirs = (self.images().requires_grad_() for _ in range(2))
        for _ in range(2):
            y = cp.checkpoint(again, ours, use_reentrant=reentrant)
            y.square().sum().backward()
            layer(theirs).square().sum().backward()
        torch.testing.assert_close(again.state_dict(), layer.state_dict(), **EXACT)
        torch.testing.assert_close(ours.grad, theirs.grad)
        assert_same_gradients(again, layer)

    # --- ranks ------------------------------------------------------------------------

    @pytest.mark.parametrize(
        'shapes',
        [
            [(2, 6, 4), (2, 6, 4)],
            [(3, 6, 4), (1, 4, 8)],
            [(0, 6, 4), (2, 4, 8)],
            [(0, 6, 4), (2, 0, 4)],
        ],
        ids=['like', 'unlike', 'one empty', 'both empty'],
    )
    def test_two_ranks_equal_one_process(self, settings, shapes, two_ranks):
        xs = [self.images(*shape, seed=seed) for seed, shape in enumerate(shapes)]
        layer = self.trained(settings)
        results = assert_equals_one_process(two_ranks, layer, xs, 2, self.define)
        torch.testing.assert_close(*[r['buffers'] for r in results], **EXACT)

    def test_ranks_that_do_not_merge_are_on_their_own(self, settings, two_ranks):
        layer = self.trained(settings, sync=False)
        xs = [self.images(seed=0), self.images(2, 4, 8, seed=1)]
        ys = two_ranks.run(forward, [(layer, x) for x in xs])
        for x, y in zip(xs, ys, strict=True):
            torch.testing.assert_close(y, copy.deepcopy(layer)(x).detach())

    # --- input of all kinds -----------------------------------------------------------

    @MODES
    @pytest.mark.parametrize('shape', [(0, 6, 4), (2, 0, 4)])
    def test_an_empty_batch_passes_and_leaves_the_state_alone(
        self, settings, training, shape
    ):
        layer = self.trained(settings).train(training)
        before = copy.deepcopy(layer.state_dict())
        x = self.images(*shape).requires_grad_()
        y = layer(x)
        assert y.shape == x.shape
        y.sum().backward()
        for parameter in layer.parameters():  # as data-parallel training wants
            assert torch.equal(parameter.grad, torch.zeros_like(parameter))
        torch.testing.assert_close(layer.state_dict(), before, **EXACT)

    @pytest.mark.parametrize('value', [torch.inf, torch.nan])
    def test_a_bad_batch_leaves_the_statistics_alone(self, settings, value):
        layer = self.trained(settings)
        bad = self.images()
        bad[1, 1, 2, 2] = value
        before = copy.deepcopy(layer.state_dict())
        layer(bad)
        torch.testing.assert_close(layer.state_dict(), before, **EXACT)
        self.compare(layer, self.images())

    @MODES
    @pytest.mark.parametrize(
        'dtype', [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str
    )
    def test_input_that_is_not_real_floating_point_is_refused(
        self, settings, training, dtype
    ):
        layer = self.trained(settings).train(training)
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(TypeError, match=f'floating-point dtype .*, got {dtype}'):
            layer(self.images().to(dtype))
        torch.testing.assert_close(layer.state_dict(), before, **EXACT)

    @MODES
    def test_wrong_shapes_are_refused_as_by_batchnorm(self, settings, training):
        x = self.images()
        for norm in (self.make(settings), nn.BatchNorm2d(self.channels).double()):
            norm.train(training)
            for wrong in (x[0], x[0, 0], x[:, :, None]):
                with pytest.raises(ValueError, match='expected 4D input'):
                    norm(wrong)
            with pytest.raises(RuntimeError, match=str(self.channels)):
                norm(torch.cat([x, x], dim=1))

    def test_one_value_per_channel_is_refused_in_training_alone(self, settings):
        x = self.images(1, 1, 1)
        layer = self.trained(settings)
        if self.is_batchnorm(settings):
            with pytest.raises(ValueError, match='more than 1 value per channel'):
                layer(x)
        if self.is_batchnorm(settings) and 'no statistics' not in self.refuses:
            with pytest.raises(ValueError, match='more than 1 value per channel'):
                self.make(settings, track_running_stats=False).eval()(x)
        assert layer.eval()(x).isfinite().all()

    # --- neighbours, compilers --------------------------------------------------------

    @FORMATS
    @MODES
    @pytest.mark.parametrize(
        'dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str
    )
    def test_in_place_neighbours_change_nothing(
        self, settings, training, memory_format, dtype
    ):
        x = self.images().to(dtype, memory_format=memory_format)
        results = []
        for kind in (Block, OutOfPlace):
            block = kind(self.trained(settings), self.trained(settings)).float()
            results.append(block.train(training).step(x))
        torch.testing.assert_close(*results, **EXACT)

    @MODES
    def test_the_callers_tensor_is_never_changed(self, settings, training):
        x = self.images()
        self.trained(settings).train(training)(x)
        assert torch.equal(x, self.images())

    @MODES
    def test_nothing_is_read_back(self, settings, training):
        layer = self.trained(settings).train(training)
        x = self.images().requires_grad_()
        with ReadsBack():
            layer(x).sum().backward()
            with pytest.raises(AssertionError, match='reads back'):
                x.sum().item()
        # A meta tensor has no data: any branch on data raises.
        x = x.detach().to('meta')
        assert layer.to('meta')(x).shape == x.shape

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

    def test_a_trace_holds_for_other_sizes_and_saves(self, settings, tmp_path):
        layer = self.trained(settings).float().eval()
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

    @pytest.mark.parametrize(
        ('common', 'named'),
        [
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
            ({'initial_wieght': 1.0}, 'initial_wieght'),
        ],
        ids=str,
    )
    def test_senseless_arguments_raise_at_construction(self, common, named):
        with pytest.raises((ValueError, TypeError), match=named):
            self.norm(**({'num_features': 8} | self.default | common))

    def test_its_own_senseless_arguments_raise_at_construction(self):
        for settings, named in self.wrong:
            with pytest.raises((ValueError, TypeError), match=named):
                self.make(settings)


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


def forward(task: tuple[nn.Module, Tensor]) -> Tensor:
    """One rank's forward."""
    layer, x = task
    return layer(x).detach()


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
