"""Typed rows in, clean rows out; each dropped row leaves the rule, its value and the threshold.

In:  ingest/rows-<shard>.parquet
Out: clean/rows-<shard>.parquet (same columns) and clean/dropped-<shard>.parquet (schema rows.DROPPED)

Every step is an Arrow expression over a whole batch. The two that need Python, HTML (selectolax) and mojibake (ftfy),
run only on texts that a cheap regular expression has marked: on ordinary text that is fewer than one in a hundred,
and ftfy alone would be two hundred times slower than everything else here. A row keeps the row_id of its raw text.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import ftfy
import pyarrow as pa
import pyarrow.compute as pc
from selectolax.lexbor import LexborHTMLParser
from snaketune.job import run
from snaketune.rows import DROPPED, ROW, TableWriter, batches

# A tag, a comment or an entity. A lone "<" or "&" is left as it is.
HTML = r"</?[A-Za-z][A-Za-z0-9-]*(\s[^<>]*)?/?>|<!--|<!DOCTYPE|&(#\d+|#x[0-9A-Fa-f]+|[A-Za-z]{2,8}\d?);"
# UTF-8 that was read as Latin-1 or Windows-1252: a lead byte shown as a letter, then a continuation byte's sign.
MOJIBAKE = r"[ÂÃÄÅÎÏÐÑâãåæçèéêëìíîðñ][\x{80}-\x{BF}€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|\x{FFFD}"
# Everything of Unicode's Cc but tab and line feed; zero-width and directional marks; the byte order mark.
CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F\x{200B}\x{200E}\x{200F}\x{202A}-\x{202E}\x{2060}-\x{2064}\x{FEFF}]"
FTFY = ftfy.TextFixerConfig(unescape_html=False, uncurl_quotes=False, fix_latin_ligatures=False, normalization=None)
BLOCKS = "p,div,br,li,tr,h1,h2,h3,h4,h5,h6,pre,blockquote,section,article,table,ul,ol"


def clean(rows: str, out: str, dropped: str, settings: dict[str, Any]) -> str:
    """Clean one shard."""
    reasons: Counter[str] = Counter()
    seen = 0
    with TableWriter(out, ROW) as good, TableWriter(dropped, DROPPED) as bad:
        for batch in batches(rows):
            seen += batch.num_rows
            for column in ("prompt", "completion"):
                index = batch.schema.get_field_index(column)
                batch = batch.set_column(index, column, clean_text(batch[column], settings))
            keep, faults = _judge(batch, settings)
            good.write(batch.filter(keep))
            bad.write(faults)
            reasons.update(faults["rule"].to_pylist())
    why = ": " + ", ".join(f"{rule} {n:,}" for rule, n in sorted(reasons.items())) if reasons else ""
    return f"{good.rows:,} of {seen:,} rows kept{why}"


def clean_text(texts: pa.ChunkedArray | pa.Array, settings: dict[str, Any]) -> pa.Array:
    """Clean a column of texts [rows]; nulls stay null."""
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    if settings["encoding"]:
        texts = _where(texts, MOJIBAKE, lambda text: ftfy.fix_text(text, FTFY))
    if settings["html"]:
        texts = _where(texts, HTML, html_to_text)
    if settings["unicode"] != "none":
        texts = pc.utf8_normalize(texts, settings["unicode"])
    texts = pc.replace_substring_regex(texts, r"\r\n?", "\n")
    if settings["control_characters"]:
        texts = pc.replace_substring_regex(texts, CONTROL, "")
    if settings["whitespace"]:
        texts = pc.replace_substring_regex(texts, r"[\t\x{A0}\x{2000}-\x{200A}\x{202F}\x{3000} ]+", " ")
        texts = pc.replace_substring_regex(texts, r" ?\n ?", "\n")
        texts = pc.replace_substring_regex(texts, r"\n{3,}", "\n\n")
        texts = pc.utf8_trim_whitespace(texts)
    return texts


def html_to_text(text: str) -> str:
    """The visible text of HTML: scripts and styles removed, blocks on lines of their own, entities resolved."""
    tree = LexborHTMLParser(text)
    tree.strip_tags(["script", "style", "noscript", "template"])
    for node in tree.css(BLOCKS):
        node.insert_before("\n")
        node.insert_after("\n")
    root = tree.body or tree.root
    return root.text() if root is not None else ""


def _where(texts: pa.Array, pattern: str, mend: Callable[[str], str]) -> pa.Array:
    """Apply a Python function to the texts that match a pattern, and to no other."""
    marked = pc.fill_null(pc.match_substring_regex(texts, pattern), False)
    if not pc.any(marked).as_py():
        return texts
    mended = [mend(text) for text in texts.filter(marked).to_pylist()]
    return pc.replace_with_mask(texts, marked, pa.array(mended, texts.type))


def _judge(batch: pa.Table, settings: dict[str, Any]) -> tuple[pa.Array, pa.Table]:
    """Which rows stay, and why the others go: the first rule that a row fails."""
    completion = pc.utf8_length(batch["completion"])
    whole = pc.add(completion, pc.fill_null(pc.utf8_length(batch["prompt"]), 0))
    empty_prompt = pc.fill_null(pc.equal(pc.utf8_length(batch["prompt"]), 0), False)
    rules = [
        ("empty", pc.equal(completion, 0), completion, 1),
        ("empty_prompt", empty_prompt, pc.multiply(completion, 0), 1),
        ("too_short", pc.less(completion, settings["min_chars"]), completion, settings["min_chars"]),
        ("too_long", pc.greater(whole, settings["max_chars"]), whole, settings["max_chars"]),
    ]
    keep = pa.chunked_array([pa.repeat(True, batch.num_rows)])
    faults = []
    for rule, fails, value, threshold in rules:
        fails = pc.and_(keep, fails)
        gone = batch.select(["row_id", "source", "line"]).filter(fails)
        faults.append(
            gone.append_column("stage", pa.repeat("clean", gone.num_rows))
            .append_column("rule", pa.repeat(rule, gone.num_rows))
            .append_column("value", value.filter(fails).cast(pa.float64()))
            .append_column("threshold", pa.repeat(float(threshold), gone.num_rows))
        )
        keep = pc.and_(keep, pc.invert(fails))
    return keep, pa.concat_tables(faults)


if __name__ == "__main__":
    run(lambda job: clean(job.input.rows, job.output.rows, job.output.dropped, job.params.settings), snakemake)
