"""How measures come into a process: ours by themselves, for everybody else through `evaluate.load`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snaketune.scoring import measures
from test_metrics import PREDICTIONS, REFERENCES, answers, scores

FOLDERS = sorted(path.name for path in measures.MODULES.iterdir() if path.is_dir())
SETTINGS = {"metrics": FOLDERS, "bleu_tokenizer": "13a", "rouge_stemmer": False, "overlap_ngram": 3}
CLASSES = ["the", "model"]
GOLDS = [CLASSES[row % 2] for row in range(len(PREDICTIONS))]


def _python(program: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, in another folder, with an empty home and no way to the Hub."""
    (folder / "home").mkdir()
    (folder / "tmp").mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-B", "-c", program],
        env=kept | places | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def by_evaluate(tmp_path_factory) -> dict[str, dict[str, float]]:
    """What evaluate.load makes of each folder, where neither the workflow nor a network is at hand."""
    folder = tmp_path_factory.mktemp("elsewhere")
    pq.write_table(pa.table({"completion": REFERENCES}), folder / "train.parquet")
    given = {"predictions": PREDICTIONS, "references": REFERENCES, "prompts": PREDICTIONS[::-1]}
    more = {
        "classification": {"references": GOLDS},
        "overlap": {"train": ["train.parquet"]},
    }
    options = {"overlap": {"ngram": 3}, "classification": {"classes": CLASSES}}
    (folder / "given.json").write_text(json.dumps([given, more, options]), encoding="utf-8")
    done = _python(
        "import json, pathlib, evaluate\n"
        "given, more, options = json.loads(pathlib.Path('given.json').read_text(encoding='utf-8'))\n"
        "found = {}\n"
        f"for name in {FOLDERS!r}:\n"
        f"    metric = evaluate.load(f'{measures.MODULES}/{{name}}', **options.get(name, {{}}))\n"
        "    inputs = {key: value for key, value in given.items() if key in metric.features} | more.get(name, {})\n"
        "    found[name] = metric.compute(**inputs)\n"
        "print(json.dumps(found))\n",
        folder,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", FOLDERS)
def test_evaluate_load_gives_the_same_numbers_to_anybody(by_evaluate, name, tmp_path):
    path = str(tmp_path / "train.parquet")
    pq.write_table(pa.table({"completion": REFERENCES}), path)
    measure = measures.load(SETTINGS, CLASSES)[name]
    references = GOLDS if name == "classification" else REFERENCES
    expected = scores(measure, PREDICTIONS, references, prompts=PREDICTIONS[::-1], train=(path,))
    assert by_evaluate[name] == expected
    assert any(expected.values())


def test_measures_need_neither_evaluate_nor_the_libraries_of_models(tmp_path):
    """In a process of its own that loads them all and takes them of three answers."""
    pq.write_table(pa.table({"completion": REFERENCES}), tmp_path / "train.parquet")
    done = _python(
        "import sys\n"
        "from snaketune.scoring import measures\n"
        f"loaded = measures.load({SETTINGS!r}, ['a', 'b'])\n"
        "given = measures.Answers(['a b c'] * 3, ['b'] * 3, [''] * 3, [None] * 3, ('train.parquet',))\n"
        "assert all(measure.statistics(given) for measure in loaded.values())\n"
        "heavy = ('evaluate', 'torch', 'transformers', 'datasets', 'pandas')\n"
        "print([name for name in heavy if name in sys.modules])\n",
        tmp_path,
        PYTHONPATH=str(measures.MODULES.parent / "scripts"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("[]", "['pandas']")  # Arrow looks for pandas; stages that are light keep it out
    assert not list((tmp_path / "home").rglob("*"))
    assert not list((tmp_path / "tmp").rglob("*"))


def test_every_folder_is_a_measure_with_a_signature_of_each_metric():
    for name, measure in measures.load(SETTINGS, CLASSES).items():
        assert isinstance(measure, measures.Measure), name
        assert set(measure.METRICS) == set(measure.signature()) == set(measure.HIGHER_IS_BETTER)
    loaded = measures.load(SETTINGS, CLASSES)
    assert sum(len(measure.METRICS) for measure in loaded.values()) == len(measures.signatures(loaded))
    directions = measures.directions(loaded)
    assert {name for name, better in directions.items() if better is False} == {"ter", "repetition", "unrecognized"}
    assert {name for name, better in directions.items() if better is None} == {
        *("distinct_1", "distinct_2", "self_bleu"),
        *("length_ratio", "prompt_overlap", "train_overlap"),
    }


def test_an_edited_measure_is_never_served_stale(tmp_path):
    shutil.copytree(measures.MODULES / "exact_match", tmp_path / "exact_match")
    copy = tmp_path / "exact_match/measure.py"
    only = SETTINGS | {"metrics": ["exact_match"]}
    assert "case:mixed" in measures.load(only, modules=tmp_path)["exact_match"].signature()["exact_match"]
    copy.write_text(copy.read_text(encoding="utf-8").replace("case:mixed", "case:other"), encoding="utf-8")
    assert "case:other" in measures.load(only, modules=tmp_path)["exact_match"].signature()["exact_match"]


@pytest.mark.parametrize("piece", ["_words", "WORD"])
def test_metrics_that_must_stand_alone_agree_on_what_a_word_is(piece):
    """evaluate.load copies a metric without its neighbours, so each has the few lines itself: the same ones."""
    pattern = {"_words": r"# What a byte of ASCII .*?return words\.filter[^\n]*\n", "WORD": r"WORD = regex.*?\n\)\n"}[
        piece
    ]
    found = {
        name: re.findall(pattern, (measures.MODULES / name / "measure.py").read_text(encoding="utf-8"), re.DOTALL)
        for name in FOLDERS
    }
    found = {name: texts for name, texts in found.items() if texts}
    assert set(found) == {"_words": {"diversity", "length_ratio", "overlap"}, "WORD": {"rouge", "token_f1"}}[piece]
    assert len({text for texts in found.values() for text in texts}) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("It's a well-known 12.5 %, x_y", "tabs\tand\nlines\r\n", "\x00bell\x07", "", "   "),
        *("naïve Straße", "Мама мыла раму", "हिन्दी में", "自然言語処理 is ハード", "مرحبا بالعالم", "e\u0301te\u0301"),
        *("\u202eleft", "👍🏽ok", "ไทยแลนด์", "“curly” — dash", "x" * 1000),
    ],
)
def test_the_words_of_counts_are_those_of_rouge(text):
    words, of = measures.module("overlap")._words([text, "a b"])
    expected = measures.module("rouge").Words(False).tokenize(text)
    assert words.to_pylist() == [*expected, "a", "b"]
    assert of.tolist() == [0] * len(expected) + [1, 1]


def test_words_may_come_from_a_part_of_a_column_with_nulls():
    column = pa.array(["skipped", "Ab c", None, "дом", "ДОМ x"]).slice(1)
    words, of = measures.module("diversity")._words(column)
    assert (words.to_pylist(), of.tolist()) == (["ab", "c", "дом", "дом", "x"], [0, 0, 2, 3, 3])
    assert answers(["a"], ["b"]).train == ()
