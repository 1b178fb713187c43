"""A norm in the place of every BatchNorm of a model's config, and nothing else."""

import pytest
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from torch import nn

from ubn_mmdet.mm.norm_configs import batchnorms, with_norm

UBN = {'type': 'UBN', 'requires_grad': True}


@pytest.fixture(autouse=True)
def registered():
    register_all_modules()


def test_every_batchnorm_is_replaced_and_nothing_else():
    model = ConfigDict(
        backbone={'norm_cfg': {'type': 'SyncBN'}},
        neck=[{'norm_cfg': {'type': 'GN', 'num_groups': 32}}, {'other': 1}],
        head={'norm_cfg': {'type': 'BN'}, 'deep': {'norm_cfg': None}},
    )
    before = model.copy()
    assert with_norm(model, UBN) == {
        'backbone': {'norm_cfg': UBN},
        'neck': [{'norm_cfg': {'type': 'GN', 'num_groups': 32}}, {'other': 1}],
        'head': {'norm_cfg': UBN, 'deep': {'norm_cfg': None}},
    }
    assert model == before


def test_classes_are_as_good_as_their_names():
    model = ConfigDict(backbone={'norm_cfg': {'type': nn.BatchNorm2d, 'eps': 1e-3}})
    assert with_norm(model, UBN).backbone.norm_cfg == {**UBN, 'eps': 1e-3}
    model = ConfigDict(backbone={'norm_cfg': {'type': nn.GroupNorm}})
    assert with_norm(model, UBN) == model


def test_settings_of_the_one_that_is_replaced_hold_on():
    old = {'type': 'BN', 'eps': 0.001, 'momentum': 0.03, 'requires_grad': False}
    model = ConfigDict(backbone={'norm_cfg': old})
    assert with_norm(model, UBN).backbone.norm_cfg == {**old, 'type': 'UBN'}
    # What the new one states itself it means, but what is frozen stays frozen.
    found = with_norm(model, {**UBN, 'momentum': 0.5}).backbone.norm_cfg
    assert found == {**old, 'type': 'UBN', 'momentum': 0.5}
    # What only another kind knows goes.
    model = ConfigDict(backbone={'norm_cfg': {'type': 'BGN', 'num_groups': 4}})
    assert with_norm(model, UBN).backbone.norm_cfg == UBN


def test_what_only_batchnorm_knows_is_no_setting_of_another_norm():
    old = {'type': 'BN', 'eps': 1e-3, 'momentum': 0.03, 'track_running_stats': True}
    model = ConfigDict(backbone={'norm_cfg': old})
    group_norm = with_norm(model, {'type': 'GN', 'num_groups': 2}).backbone.norm_cfg
    assert group_norm == {'type': 'GN', 'num_groups': 2, 'eps': 1e-3}


def test_norms_that_a_class_has_by_default_are_written_out():
    model = ConfigDict(backbone={'type': 'ResNet', 'depth': 18})
    assert with_norm(model, UBN).backbone.norm_cfg == UBN
    # With the settings of the default.
    model = ConfigDict(neck={'type': 'YOLOXPAFPN'})
    assert with_norm(model, UBN).neck.norm_cfg == UBN | {'momentum': 0.03, 'eps': 1e-3}
    silent = ConfigDict(backbone={'type': 'ResNet', 'depth': 18, 'norm_cfg': None})
    assert with_norm(silent, UBN) == silent
    assert not list(batchnorms(silent)) and list(batchnorms(model))
