"""Rows to blocks, and blocks to the order of an epoch."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaketune.job import StageError
from snaketune.packing import Schedule, group_by_length, pack

lengths_of_rows = st.lists(st.integers(1, 40), max_size=200)
BATCHINGS = ["packed", "length_grouped", "padded"]


def best_fit(lengths: list[int], size: int) -> int:
    """The number of blocks of best-fit decreasing, by the plain search of all blocks."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [number for number, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda number: rooms[number])] -= length
        else:
            rooms.append(size - length)
    return len(rooms)


def blocks_of(schedule: Schedule, epoch: int) -> list[list[int]]:
    """The blocks of an epoch as lists."""
    blocks = schedule.epoch(epoch)
    return [blocks.row(number) for number in range(len(blocks))]


def steps_of(schedule: Schedule, epoch: int, batch_size: int) -> list[list[list[int]]]:
    blocks = blocks_of(schedule, epoch)
    return [blocks[start : start + batch_size] for start in range(0, len(blocks), batch_size)]


@given(lengths_of_rows, st.integers(40, 100))
def test_every_row_is_in_exactly_one_block_and_no_block_is_above_the_size(lengths, size):
    blocks = pack(lengths, size)
    assert sorted(row for block in blocks for row in block) == list(range(len(lengths)))
    assert all(block for block in blocks)
    assert all(sum(lengths[row] for row in block) <= size for block in blocks)


@given(lengths_of_rows, st.integers(40, 100))
def test_packing_needs_as_many_blocks_as_a_plain_search_for_the_best_fit(lengths, size):
    assert len(pack(lengths, size)) == best_fit(lengths, size)


@given(lengths_of_rows)
def test_packing_is_a_function_of_the_lengths(lengths):
    assert pack(lengths, 40) == pack(list(lengths), 40) == pack(np.array(lengths, dtype=np.int32), 40)


def test_best_fit_fills_two_blocks_where_first_fit_in_the_order_of_rows_needs_three():
    # First-fit as the rows come: [4,3] [6] [7] of 10; best-fit decreasing: [7,3] [6,4].
    assert pack([4, 3, 6, 7], 10) == [[3, 1], [2, 0]]


def test_the_tightest_room_is_taken():
    # After 7 and 6, rooms of 3 and 4 are left: a row of 3 belongs in the first, and leaves the second for the 4.
    assert pack([7, 6, 4, 3], 10) == [[0, 3], [1, 2]]
    assert pack([6, 7, 3], 10) == [[1, 2], [0]]


def test_a_row_that_is_longer_than_a_block_is_refused_in_words():
    with pytest.raises(StageError, match=r"row 1 has 11 tokens, and a block holds 10; see `tokenize.max_length`"):
        pack([3, 11, 4], 10)


def test_a_block_may_be_filled_to_the_last_token():
    assert pack([10, 10], 10) == [[0], [1]]
    assert pack([9, 1, 1], 10) == [[0, 1], [2]]
    assert pack([], 10) == []


def test_rows_of_like_length_share_a_step_each_in_a_block_of_its_own():
    assert group_by_length([3, 9, 5, 8, 4], 2) == [[[1], [3]], [[2], [4]], [[0]]]


@pytest.mark.parametrize("batching", BATCHINGS)
@given(lengths=lengths_of_rows, batch_size=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_an_epoch_has_every_row_exactly_once_and_as_many_blocks_and_steps_as_it_says(
    batching, lengths, batch_size, seed
):
    schedule = Schedule(np.array(lengths, dtype=np.int32), batching, batch_size, 40, seed)
    for epoch in (0, 7):
        steps = steps_of(schedule, epoch, batch_size)
        blocks = [block for step in steps for block in step]
        assert sorted(row for block in blocks for row in block) == list(range(len(lengths)))
        assert (len(blocks), len(steps)) == (schedule.blocks, schedule.steps)
        assert all(block for block in blocks)
        if batching != "packed":
            assert all(len(block) == 1 for block in blocks)


@given(lengths_of_rows, st.integers(40, 100))
def test_dealing_anew_keeps_the_blocks_as_full_as_best_fit_made_them(lengths, size):
    schedule = Schedule(np.array(lengths, dtype=np.int64), "packed", 4, size, 1)

    def profiles(blocks):
        return Counter(tuple(sorted(lengths[row] for row in block)) for block in blocks)

    assert profiles(blocks_of(schedule, 3)) == profiles(pack(lengths, size))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_an_epoch_follows_from_seed_and_number_alone(batching):
    lengths = np.random.default_rng(0).integers(2, 20, 300)

    def epoch(seed, number):
        return blocks_of(Schedule(lengths, batching, 4, 40, seed), number)

    assert epoch(1, 2) == epoch(1, 2)
    assert len({str(made) for made in (epoch(1, 0), epoch(1, 1), epoch(1, 2), epoch(2, 0), epoch(2, 1))}) == 5


def test_rows_of_equal_length_meet_each_other_evenly():
    """Of four rows in blocks of two, the first meets each of the others in a third of the epochs."""
    schedule = Schedule(np.full(4, 5), "packed", 1, 10, 3)
    partner = Counter()
    for epoch in range(600):
        (block,) = (set(block) for block in blocks_of(schedule, epoch) if 0 in block)
        partner[*(block - {0})] += 1
    assert sorted(partner) == [(1,), (2,), (3,)]
    assert all(abs(count - 200) < 60 for count in partner.values()), "5 standard deviations"


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("lengths", [[4, 4, 4, 4], [9, 8, 7, 6]], ids=["equal", "different"])
def test_every_block_stands_everywhere_in_the_order_evenly(batching, lengths):
    schedule = Schedule(np.array(lengths), batching, 1, 10, 0)
    places = Counter()
    for epoch in range(400):
        for place, block in enumerate(blocks_of(schedule, epoch)):
            places[place, block[0]] += 1
    assert len(places) == (8 if batching == "packed" and lengths[0] == 4 else 16)
    assert all(abs(count - 100) < 45 for count in places.values()), "5 standard deviations"


def test_a_step_of_like_length_has_rows_that_follow_each_other_by_length():
    lengths = np.random.default_rng(1).permutation(np.arange(1, 31))
    schedule = Schedule(lengths, "length_grouped", 4, 30, 5)
    smaller, firsts = set(), set()
    for epoch in range(60):
        steps = [sorted(int(lengths[row]) for (row,) in step) for step in steps_of(schedule, epoch, 4)]
        assert [len(step) for step in steps] == [4] * 7 + [2]
        assert all(step[-1] - step[0] == len(step) - 1 for step in steps)
        smaller.add(steps[-1][0])
        firsts.add(steps[0][0])
    assert len(smaller) == 8, "the smaller step has the shortest rows in one epoch and the longest in another"
    assert len(firsts) > 8, "the steps are shuffled, and cut at other lengths"


def test_ties_of_length_are_dealt_to_other_steps_in_each_epoch():
    schedule = Schedule(np.array([3] * 6 + [9] * 6), "length_grouped", 3, 9, 0)
    steps = [frozenset(row for (row,) in step) for epoch in range(30) for step in steps_of(schedule, epoch, 3)]
    assert all(max(step) < 6 or min(step) >= 6 for step in steps)
    assert len(set(steps)) > 20


def test_padded_steps_pay_no_heed_to_length():
    lengths = np.arange(1, 101)
    order = [row for (row,) in blocks_of(Schedule(lengths, "padded", 8, 100, 0), 0)]
    assert abs(np.corrcoef(lengths[order], np.arange(100))[0, 1]) < 0.4


def test_rows_of_more_tokens_than_16_bits_count_are_ordered_too():
    lengths = np.array([70_000, 3, 70_001, 65_536, 4])
    schedule = Schedule(lengths, "packed", 1, 70_005, 0)
    assert sorted(sorted(block) for block in blocks_of(schedule, 0)) == [[0, 1], [2, 4], [3]]
    with pytest.raises(StageError, match="row 2 has 70001 tokens"):
        Schedule(lengths, "packed", 1, 70_000, 0)
