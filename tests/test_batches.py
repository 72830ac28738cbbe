"""Rows to blocks and blocks to tensors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from snaketune.job import StageError
from snaketune.model.batches import Rows, collate, group_by_length, pack
from snaketune.model.lm import IGNORED

lengths_of_rows = st.lists(st.integers(1, 40), max_size=200)


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
    assert pack([], 10) == []


def test_rows_of_like_length_share_a_batch_each_in_a_block_of_its_own():
    assert group_by_length([3, 9, 5, 8, 4], 2) == [[[1], [3]], [[2], [4]], [[0]]]


ROWS = [np.array(row, dtype=np.int32) for row in ([11, 12, 13, 14], [21, 22, 23], [31, 32])]


def test_positions_restart_with_each_row_and_padding_stands_at_0():
    batch = collate([[0, 2], [1]], ROWS, [2, 0, 1], "all", pad=9)
    assert batch["input_ids"].tolist() == [[11, 12, 13, 14, 31, 32], [21, 22, 23, 9, 9, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]]


def test_the_first_token_of_each_row_and_padding_have_no_label():
    batch = collate([[0, 2], [1]], ROWS, [2, 0, 1], "all", pad=9)
    no = IGNORED
    assert batch["labels"].tolist() == [[no, 12, 13, 14, no, 32], [no, 22, 23, no, no, no]]


def test_loss_on_completion_has_no_label_in_a_prompt():
    batch = collate([[0, 2], [1]], ROWS, [2, 0, 1], "completion", pad=9)
    no = IGNORED
    assert batch["labels"].tolist() == [[no, no, 13, 14, no, 32], [no, 22, 23, no, no, no]]


def test_a_token_equal_to_the_padding_keeps_its_label():
    batch = collate([[0], [1]], [np.array([5, 6, 9]), np.array([5, 9])], [1, 1], "completion", pad=9)
    assert batch["labels"].tolist() == [[IGNORED, 6, 9], [IGNORED, 9, IGNORED]]


def test_rows_come_back_from_arrow_as_they_were_encoded(tmp_path):
    model = models.base(tmp_path / "base")
    rows = models.pairs(9) + models.texts(3)
    data = Rows(models.tokens(rows, model, tmp_path / "tokens", "train"))
    tokenizer = models.tokenizer_of()
    for number, (prompt, completion) in enumerate(rows[:9]):
        head = tokenizer(prompt + "\n")["input_ids"]
        assert data[number].tolist() == head + tokenizer(completion)["input_ids"] + [tokenizer.eos_token_id]
        assert data.prompt_lengths[number] == len(head)
    assert [len(data[row]) for row in range(len(data))] == data.lengths.tolist()
    assert models.manifest(str(tmp_path / "tokens/train"))["tokens"] == sum(data.lengths)
