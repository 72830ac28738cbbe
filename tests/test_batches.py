"""Blocks to tensors, and the rows and the plan that they come from."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import models
from snaketune.model.batches import Batch, Plan, Rows, collate
from snaketune.model.lm import IGNORED

ROWS = [np.array(row, dtype=np.int32) for row in ([11, 12, 13, 14], [21, 22, 23], [31, 32])]
no = IGNORED


def by_hand(blocks, rows, prompts, loss_on, pad, layout, width=None):
    """The plain loop: ids, positions, labels, documents, places and targets as lists."""
    sequences = [[row for block in blocks for row in block]] if layout == "flat" else blocks
    longest = max(sum(len(rows[row]) for row in sequence) for sequence in sequences)
    ids, positions, labels, documents = [], [], [], []
    for sequence in sequences:
        line = []
        for row in sequence:
            given = max(1, prompts[row]) if loss_on == "completion" else 1
            documents.append(len(rows[row]))
            line += [(int(token), at, int(token) if at >= given else no) for at, token in enumerate(rows[row])]
        if tail := (width or longest) - len(line):
            documents.append(tail)
            line += [(pad, 0, no)] * tail
        ids.append([token for token, _, _ in line])
        positions.append([at for _, at, _ in line])
        labels.append([label for _, _, label in line])
    flat = [label for line in labels for label in line]
    trained = [place for place, label in enumerate(flat) if label != no]
    return ids, positions, labels, documents, [place - 1 for place in trained], [flat[place] for place in trained]


def as_lists(batch: Batch):
    tensors = (batch.input_ids, batch.position_ids, batch.labels())
    ids, positions, labels = (tensor.tolist() for tensor in tensors)
    return ids, positions, labels, list(batch.documents.lengths), batch.places.tolist(), batch.targets.tolist()


@st.composite
def cases(draw):
    lengths = draw(st.lists(st.integers(2, 7), min_size=1, max_size=12))
    rows = [np.arange(length, dtype=np.int32) * 7 % 5 + number for number, length in enumerate(lengths)]
    prompts = np.array([draw(st.integers(0, length)) for length in lengths], dtype=np.int32)
    order = draw(st.permutations(range(len(rows))))
    cuts = sorted(draw(st.sets(st.integers(1, max(len(rows) - 1, 1)), max_size=4)) - {len(rows)})
    blocks = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    return rows, prompts, blocks


@pytest.mark.parametrize("layout", ["flat", "rows"])
@pytest.mark.parametrize("loss_on", ["completion", "all"])
@given(case=cases(), spare=st.none() | st.integers(0, 9))
def test_a_batch_is_what_a_plain_loop_makes_of_its_blocks(layout, loss_on, case, spare):
    rows, prompts, blocks = case
    need = [sum(len(rows[row]) for row in block) for block in blocks]
    width = None if spare is None else spare + (sum(need) if layout == "flat" else max(need))
    batch = collate(blocks, rows, prompts, loss_on, 3, layout, width)
    assert as_lists(batch) == by_hand(blocks, rows, prompts, loss_on, 3, layout, width)
    tensors = (batch.input_ids, batch.position_ids, batch.places, batch.targets, batch.documents.starts)
    assert [tensor.dtype for tensor in tensors] == [torch.int64] * 4 + [torch.int32]
    starts, lengths = batch.documents.starts.tolist(), batch.documents.lengths
    assert starts[: len(lengths) + 1] == np.concatenate([[0], np.cumsum(lengths)]).tolist()
    assert set(starts[len(lengths) :]) == {batch.input_ids.numel()}
    if width is None:
        assert (len(starts), batch.documents.longest) == (len(lengths) + 1, max(lengths))
    assert all(isinstance(length, int) for length in lengths)


def test_positions_restart_with_each_row_and_padding_stands_at_0():
    batch = collate([[0, 2], [1]], ROWS, [2, 0, 1], "all", 9, "rows")
    assert batch.input_ids.tolist() == [[11, 12, 13, 14, 31, 32], [21, 22, 23, 9, 9, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]]
    assert batch.documents.lengths == (4, 2, 3, 3)
    flat = collate([[0, 2], [1]], ROWS, [2, 0, 1], "all", 9, "flat")
    assert flat.input_ids.tolist() == [[11, 12, 13, 14, 31, 32, 21, 22, 23]]
    assert flat.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert flat.documents.starts.tolist() == [0, 4, 6, 9]


def test_the_first_token_of_each_row_and_padding_have_no_label():
    batch = collate([[0, 2], [1]], ROWS, [2, 0, 1], "all", 9, "rows")
    assert batch.labels().tolist() == [[no, 12, 13, 14, no, 32], [no, 22, 23, no, no, no]]
    assert (batch.places.tolist(), batch.targets.tolist()) == ([0, 1, 2, 4, 6, 7], [12, 13, 14, 32, 22, 23])


def test_loss_on_completion_has_no_label_in_a_prompt():
    batch = collate([[0, 2], [1]], ROWS, [2, 0, 1], "completion", 9, "rows")
    assert batch.labels().tolist() == [[no, no, 13, 14, no, 32], [no, 22, 23, no, no, no]]


def test_a_token_equal_to_the_padding_keeps_its_label():
    batch = collate([[0], [1]], [np.array([5, 6, 9]), np.array([5, 9])], [1, 1], "completion", 9, "rows")
    assert batch.labels().tolist() == [[no, 6, 9], [no, 9, no]]


@pytest.mark.parametrize(("layout", "width"), [("flat", 24), ("rows", 12)])
def test_a_static_batch_has_the_same_shapes_whatever_rows_it_has(layout, width):
    batches = [
        collate(blocks, ROWS, [2, 0, 1], "all", 9, layout, width)
        for blocks in ([[0, 2], [1]], [[2], [2]], [[2, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2]], [[0, 0, 0], [1, 1, 1, 1]])
    ]
    assert len({(batch.input_ids.shape, batch.documents.starts.shape) for batch in batches}) == 1
    assert {batch.documents.longest for batch in batches} == {width}
    assert all(sum(batch.documents.lengths) == 24 for batch in batches)


def test_a_long_tail_is_cut_into_documents_no_longer_than_the_longest():
    batch = collate([[0, 2], [1]], ROWS, [2, 0, 1], "all", 9, "flat", 20, longest=4, most_documents=7)
    assert batch.documents.lengths == (4, 2, 3, 4, 4, 3)
    assert batch.documents.starts.tolist() == [0, 4, 6, 9, 13, 17, 20, 20]
    assert batch.documents.longest == 4
    assert batch.position_ids[0, 9:].tolist() == [0] * 11
    rows = collate([[0], [2]], ROWS, [2, 0, 1], "all", 9, "rows", 8, longest=4)
    assert rows.documents.lengths == (4, 4, 2, 4, 2)


def test_what_does_not_fit_a_given_size_is_refused():
    with pytest.raises(ValueError, match="a sequence of 6 tokens does not fit a width of 5"):
        collate([[0, 2], [1]], ROWS, [0, 0, 0], "all", 9, "rows", 5)
    with pytest.raises(ValueError, match="a sequence of 9 tokens does not fit a width of 8"):
        collate([[0, 2], [1]], ROWS, [0, 0, 0], "all", 9, "flat", 8)
    with pytest.raises(ValueError, match="a document of 4 tokens is longer than 3"):
        collate([[0]], ROWS, [0, 0, 0], "all", 9, "flat", 8, longest=3)
    with pytest.raises(ValueError, match="a batch of 4 documents does not fit one of 3"):
        collate([[0, 2], [1]], ROWS, [0, 0, 0], "all", 9, "flat", 12, most_documents=3)


def test_a_process_without_blocks_has_a_batch_of_padding():
    batch = collate([], ROWS, [0, 0, 0], "all", 9, "flat", 6)
    assert as_lists(batch) == ([[9] * 6], [[0] * 6], [[no] * 6], [6], [], [])


def test_a_batch_moves_as_a_whole():
    batch = collate([[0, 2], [1]], ROWS, [2, 0, 1], "completion", 9, "flat", 12)
    there = batch.to(torch.device("meta"), non_blocking=True)
    tensors = (there.input_ids, there.position_ids, there.documents.starts, there.places, there.targets)
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert there.documents.lengths == batch.documents.lengths
    assert as_lists(batch.to("cpu")) == as_lists(batch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_pinned_batch_is_the_same_batch():
    batch = collate([[0, 2], [1]], ROWS, [2, 0, 1], "completion", 9, "flat", 12)
    assert batch.pinned().input_ids.is_pinned()
    assert batch.pinned().documents.starts.is_pinned()
    assert as_lists(batch.pinned()) == as_lists(batch)


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


def plan_file(path, lines, steps, rows, cuts=()):
    """A plan written by hand; lines: (split, epoch, step, block, row); a record batch ends at each cut."""
    names = ["split", "epoch", "step", "block", "row"]
    columns = [pa.array([line[at] for line in lines]) for at in range(5)]
    columns = [columns[0].dictionary_encode(), *(column.cast(pa.int32()) for column in columns[1:])]
    table = pa.table(columns, names).replace_schema_metadata({"plan": f'{{"steps": {steps}, "rows": {rows}}}'})
    with pa.ipc.new_file(str(path), table.schema) as file:
        for start, end in zip([0, *cuts], [*cuts, len(lines)], strict=True):
            file.write_batch(table.slice(start, end - start).combine_chunks().to_batches()[0])
    return path


LINES = [("train", 0, 1, 0, 3), ("train", 0, 1, 0, 1), ("train", 0, 1, 1, 2), ("train", 0, 2, 0, 0)]
LINES += [("train", 1, 3, 0, 2), ("train", 1, 3, 1, 0), ("train", 1, 3, 1, 3), ("train", 1, 4, 0, 1)]
LINES += [("validation", 0, 0, 0, 2), ("validation", 0, 0, 0, 0), ("validation", 0, 0, 1, 1)]


@pytest.mark.parametrize("cuts", [(8,), (4, 8), (3, 4, 7, 8)])
def test_a_plan_is_read_step_by_step(tmp_path, cuts):
    plan = Plan(plan_file(tmp_path / "plan.arrow", LINES, 4, 4, cuts))
    assert [plan.blocks(step) for step in (4, 1, 3, 2)] == [[[1]], [[3, 1], [2]], [[2], [0, 3]], [[0]]]
    assert plan.validation == [[2, 0], [1]]
    assert [plan.epoch(step) for step in range(5)] == [0, 0.75, 1, 1.75, 2]
    for step in (-1, 0, 5):
        with pytest.raises(IndexError, match=f"the steps 1 to 4, and no step {step}"):
            plan.blocks(step)


def test_opening_a_plan_and_looking_a_step_up_read_next_to_nothing(tmp_path):
    count = 2_000_000
    lines = [pa.array(np.full(count, value, dtype=np.int32)) for value in (0, 0, 0, 7)]
    lines[1] = pa.array(np.arange(1, count + 1, dtype=np.int32))
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int8)), pa.array(["train", "validation"]))
    batch = pa.record_batch([names, *lines], ["split", "epoch", "step", "block", "row"])
    schema = batch.schema.with_metadata({"plan": f'{{"steps": {count}, "rows": {count}}}'})
    with pa.ipc.new_file(str(tmp_path / "plan.arrow"), schema) as file:
        file.write_batch(batch)
    del batch, lines, names
    held = pa.total_allocated_bytes()
    tracemalloc.start()  # numpy's arrays are among what it counts
    plan = Plan(tmp_path / "plan.arrow")
    assert plan.blocks(1_999_999) == [[7]]
    assert tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - held < 200_000
    tracemalloc.stop()
