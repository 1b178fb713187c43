"""The pages' tables are what the results say."""

import pytest
from helpers.commands import ROOT

from benchmarks.fill_pages import PAGES, fill_tables, page_tables

DOCS = ROOT / 'docs'


def test_tables_are_exchanged_and_nothing_else():
    page = 'above\n<!-- table: a, b -->\nold\n<!-- end -->\nbelow\n'
    filled = fill_tables(page, {'a, b': '| new |'})
    assert filled == 'above\n<!-- table: a, b -->\n\n| new |\n\n<!-- end -->\nbelow\n'
    assert fill_tables(filled, {'a, b': '| new |'}) == filled
    with pytest.raises(KeyError, match="no table 'a, b'; there are c"):
        fill_tables(page, {'c': ''})


@pytest.mark.parametrize('name', PAGES)
def test_the_committed_pages_are_up_to_date(name):
    page = (DOCS / name).read_text()
    assert fill_tables(page, page_tables(DOCS)) == page
    assert '<!-- table:' in page
