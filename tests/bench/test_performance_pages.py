"""The pages' tables are what the files say."""

import json

import pytest
from helpers.commands import ROOT

from ubn_mmdet.bench import pages
from ubn_mmdet.bench.tables import tables
from ubn_mmdet.markdown import fill_tables

DOCS = ROOT / 'docs'
TIMES = {'UBN k=1': [3.0, 3.0], 'BatchNorm': [2.0, 2.0]}
TIMES |= {'UBN k=3': [4.0, 4.0], 'BatchNorm + depthwise 3x3': [4.0, 2.0]}
TIMES |= {'definition': [8.0, 8.0]}


def test_tables_are_exchanged_and_nothing_else():
    page = 'above\n<!-- table: a, b -->\nold\n<!-- end -->\nbelow\n'
    filled = fill_tables(page, {'a, b': '| new |'})
    assert filled == 'above\n<!-- table: a, b -->\n\n| new |\n\n<!-- end -->\nbelow\n'
    assert fill_tables(filled, {'a, b': '| new |'}) == filled
    with pytest.raises(KeyError, match="no table 'a, b'; there are 'c'"):
        fill_tables(page, {'c': ''})


@pytest.mark.parametrize('name', pages.PAGES)
def test_the_committed_pages_are_up_to_date(name):
    pytest.importorskip('triton')
    page = (DOCS / name).read_text()
    assert fill_tables(page, pages.page_tables(DOCS / 'performance')) == page
    assert '<!-- table:' in page


def test_a_goal_is_reached_or_not():
    times = dict(TIMES)
    content = {'machine': {}, 'forward + backward': {'layer3 (2, 256, 50, 84)': times}}
    rows = tables(content)['goals'].splitlines()[2:]
    assert [row.split(' | ')[-3:] for row in rows] == [
        ['1.15', '1.50 (1.50–1.50)', '**no** |'],
        ['1.25', '1.50 (1.25–1.75)', '**no** |'],
    ]
    times['BatchNorm'] = [3.0, 3.0]
    assert '| 1.00 (1.00–1.00) | yes |' in tables(content)['goals']


def test_pages_are_written(tmp_path):
    (tmp_path / 'performance').mkdir()
    content = {'machine': {'device': 'a machine'}, 'evaluation': {'x': TIMES}}
    (tmp_path / 'performance/layers.json').write_text(json.dumps(content))
    for name in pages.PAGES:
        (tmp_path / name).write_text('<!-- table: layers, evaluation -->\n<!-- end -->')
    pages.write_pages(tmp_path)
    for name in pages.PAGES:
        assert '| x | 1.50 (1.50–1.50) |' in (tmp_path / name).read_text()
