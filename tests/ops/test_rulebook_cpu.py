"""Which rows a sparse convolution connects, by hand and against spconv."""

import pytest
import spconv.pytorch as spconv
import torch
from spconv.core import ConvAlgo

from nsmae_plugin.ops import rulebook_cpu, spconv_cpu
from nsmae_plugin.ops.rulebook_cpu import Kernel

spconv_cpu.apply()


def listed(book) -> list[list[tuple[int, int]]]:
    """Pairs of input and output row of every offset."""
    numbers = book.counts.tolist()
    return [
        list(zip(*rows[:, :count].tolist(), strict=True))
        for rows, count in zip(book.pairs.unbind(1), numbers, strict=True)
    ]


def test_a_submanifold_connects_neighbours_and_not_the_ends_of_lines():
    # A line of 4: cells 0, 1 and 3 in rows 2, 0, 1. Of a second sample cell 0 follows cell 3.
    cells = torch.tensor([[0, 1], [0, 3], [0, 0], [1, 0]], dtype=torch.int32)
    book = rulebook_cpu.submanifold(cells, [4], Kernel([3], [1], [1], [1]))
    assert torch.equal(book.cells, cells)
    assert listed(book)[0] == [(2, 0)]  # the first tap reads the cell before: row 0 reads row 2
    assert book.pairs[:, 2, :1].tolist() == [[0], [2]]  # the last tap mirrors it
    assert book.counts.tolist() == [1, 0, 0]


def test_a_stride_connects_what_it_reaches():
    # A line of 5 with cells 4 and 1 in rows 0 and 1; outputs 0, 1, 2 read 2 * out - 1 + tap.
    cells = torch.tensor([[0, 4], [0, 1]], dtype=torch.int32)
    book = rulebook_cpu.strided(cells, [5], [3], Kernel([3], [2], [1], [1]))
    assert book.cells.tolist() == [[0, 0], [0, 1], [0, 2]]
    assert listed(book) == [[(1, 1)], [(0, 2)], [(1, 0)]]


def test_a_dilated_tap_reads_further_cells():
    cells = torch.tensor([[0, 0], [0, 2], [0, 3]], dtype=torch.int32)
    book = rulebook_cpu.submanifold(cells, [4], Kernel([3], [1], [2], [2]))
    assert listed(book)[0] == [(0, 1)]


KERNELS = [
    Kernel([3, 3, 3], [2, 2, 2], [1, 1, 1], [1, 1, 1]),
    Kernel([3, 3, 3], [2, 2, 2], [0, 1, 1], [1, 1, 1]),
    Kernel([3, 1, 1], [2, 1, 1], [0, 0, 0], [1, 1, 1]),
    Kernel([2, 3, 4], [2, 1, 3], [0, 2, 1], [1, 2, 1]),
]


@pytest.mark.parametrize("count", [1, 5, 200])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_the_pairs_are_those_of_spconv(kernel, count):
    shape = (8, 9, 10)
    places = torch.randperm(720, generator=torch.Generator().manual_seed(0))[:count]
    zyx = torch.unravel_index(places % 360, shape)
    cells = torch.stack((places // 360, *zyx), dim=1).int()
    find = spconv.ops.get_indice_pairs
    options = (cells, 2, list(shape), ConvAlgo.Native, *kernel, [0, 0, 0])
    ours, theirs = find(*options), find.__wrapped__(*options)
    by_cell = [
        [
            sorted((one, *ends[two].tolist()) for one, two in pairs)
            for pairs in listed(rulebook_cpu.Rulebook(*found))
        ]
        for found, ends in ((ours, ours[0]), (theirs, theirs[0]))
    ]
    assert by_cell[0] == by_cell[1]
    assert torch.equal(ours[0], torch.unique(theirs[0], dim=0))
    assert ours[0].dtype == torch.int32


def test_a_grid_that_vanishes_is_refused_by_spconv():
    conv = spconv.SparseConv3d(1, 1, 3)
    cells = torch.zeros(1, 4, dtype=torch.int32)
    with pytest.raises(Exception, match=r"out spatial shape \[0, 0, 0\]"):
        conv(spconv.SparseConvTensor(torch.ones(1, 1), cells, [2, 2, 2], 1))
