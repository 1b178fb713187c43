"""What makes the host wait is noticed, or the tests that nothing does would say nothing."""

import pytest
import torch
from helpers.reads_back import CountedReads, ReadsBack

X = torch.ones(3)
READS = {
    'item': lambda: X.sum().item(),
    'if': lambda: bool(X.sum() > 0),
    'equal': lambda: torch.equal(X, X),
    'allclose': lambda: torch.allclose(X, X),
    'nonzero': lambda: X.nonzero(),
    'masked_select': lambda: X.masked_select(X > 0),
    'by a mask': lambda: X[X > 0],
    'into a mask': lambda: X.clone().index_put_((X > 0,), X),
    'unique': lambda: X.unique(),
    'unique rows': lambda: X.unique(dim=0),
    'bincount': lambda: X.long().bincount(),
}
COPIES = {
    'of numbers': lambda: torch.tensor([1.0, 2.0]),
    'to a device': lambda: X.to('meta'),
    'into a tensor': lambda: torch.empty(3, device='meta').copy_(X),
}


def test_reads_are_noticed_and_counted():
    for name, read in READS.items():
        with pytest.raises(AssertionError, match='reads back'), ReadsBack():
            read()
        with CountedReads() as reads:
            read()
        assert reads.count == 1, name


def test_copies_are_noticed():
    for copy in COPIES.values():
        with pytest.raises(AssertionError, match='copie[ds]'), ReadsBack():
            copy()
    with CountedReads() as reads:
        X.to('cpu', copy=True)
    assert reads.count == 1


def test_what_a_device_does_alone_is_no_read():
    with ReadsBack(), CountedReads() as reads:
        torch.where(X > 0, X.new_full((3,), 2.0), 1.0).double().sum()
    assert reads.count == 0
