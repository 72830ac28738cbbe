"""Typed rows in, clean rows out; each dropped row leaves the rule, its value and the threshold.

In:  ingest/rows-<shard>.parquet
Out: clean/rows-<shard>.parquet (same columns) and clean/dropped-<shard>.parquet (schema rows.DROPPED)

Every step is an Arrow expression over a whole batch. The two that need Python, HTML (selectolax) and mojibake (ftfy),
run only on texts that a cheap regular expression has marked: on ordinary text that is fewer than one in a hundred,
and ftfy alone would be two hundred times slower than everything else here. A row keeps the row_id of its raw text.

A parser of HTML takes every "<" before a letter for mark-up, and all that follows an unclosed comment or script for
its content. So it is given only what is surely mark-up (`html_to_text`): `List<String>` and `a <b` stay as they are.
"""

import html
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import ftfy
import pyarrow as pa
import pyarrow.compute as pc
from selectolax.lexbor import LexborHTMLParser

from snaketune.job import run
from snaketune.rows import DROPPED, ROW, TableWriter, batches

# What may be a tag, a comment or an entity: a mark for Python to look closer.
ENTITY = r"&(#\d+|#x[0-9A-Fa-f]+|[A-Za-z]{2,8}\d?);"
HTML = r"</?[A-Za-z]|<!--|<!DOCTYPE|<!doctype|" + ENTITY
# A tag with attributes as the standard writes them: groups closing, name, attributes. Or a comment, or a doctype.
_ATTRIBUTES = r"""((?:\s+[A-Za-z_:@][\w:.@-]*(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>=`]+))?)*)"""
MARKUP = re.compile(rf"<(/?)([A-Za-z][A-Za-z0-9]*){_ATTRIBUTES}\s*/?>|<!--.*?-->|<!DOCTYPE[^<>]*>|<|&", re.S | re.I)
CLOSING = re.compile(r"</([A-Za-z][A-Za-z0-9]*)\s*>")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TAGS = _names(
    "a abbr acronym address area article aside audio b base bdi bdo big blockquote body br button canvas caption "
    "center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em embed fieldset figcaption "
    "figure font footer form h1 h2 h3 h4 h5 h6 head header hgroup hr html i iframe img input ins kbd label legend li "
    "link main map mark menu meta meter nav nobr noembed noframes noscript object ol optgroup option output p param "
    "picture pre progress q rp rt ruby s samp script search section select slot small source span strike strong style "
    "sub summary sup svg table tbody td template textarea tfoot th thead time title tr track tt u ul var video wbr "
    "xmp"
)
# These are tags even where nothing closes them; of the others, `<input>` or `<A>` may as well be a placeholder.
UNCLOSED = _names(
    "blockquote body br center dd div dl dt em font h1 h2 h3 h4 h5 h6 hr html li ol p pre span strong table tbody td "
    "tfoot th thead tr ul wbr"
)
# Their content is not parsed: one that is never closed would swallow the rest of the text.
RAW_TEXT = _names("iframe noembed noframes noscript script style template textarea title xmp")
# UTF-8 that was read as Latin-1 or Windows-1252: a lead byte shown as a letter, then a continuation byte's sign.
MOJIBAKE = r"[ÂÃÄÅÎÏÐÑâãåæçèéêëìíîðñ][\x{80}-\x{BF}€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|\x{FFFD}"
# Everything of Unicode's Cc but tab and line feed; zero-width and directional marks; the byte order mark.
CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F\x{200B}\x{200E}\x{200F}\x{202A}-\x{202E}\x{2060}-\x{2064}\x{FEFF}]"
BREAKS = r"\r\n?|[\x0B\x0C\x{85}\x{2028}\x{2029}]"
SPACES = r"[\t\x{A0}\x{1680}\x{2000}-\x{200A}\x{202F}\x{205F}\x{3000} ]+"
FTFY = ftfy.TextFixerConfig(
    unescape_html=False, uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False, normalization=None
)
BLOCKS = "p,div,h1,h2,h3,h4,h5,h6,pre,blockquote,section,article,table,ul,ol,dl"
LINES = "br,li,tr,dt,dd,option"
CELLS = "td,th"


def clean(rows: str, out: str, dropped: str, settings: dict[str, Any]) -> str:
    """Clean one shard."""
    reasons: Counter[str] = Counter()
    seen = 0
    with TableWriter(out, ROW) as good, TableWriter(dropped, DROPPED) as bad:
        for batch in batches(rows):
            seen += batch.num_rows
            mended = {name: clean_text(batch[name], settings) for name in ("prompt", "completion")}
            texts = pa.table({name: mended.get(name, batch[name]) for name in batch.schema.names})
            keep, faults = _judge(texts, settings)
            good.write(texts.filter(keep))
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
    if settings["control_characters"]:  # some of them end a line; the others stand between letters that may compose
        texts = pc.replace_substring_regex(texts, BREAKS, "\n")
        texts = pc.replace_substring_regex(texts, CONTROL, "")
    if settings["unicode"] != "none":
        texts = pc.utf8_normalize(texts, settings["unicode"])
    if settings["whitespace"]:
        texts = pc.replace_substring_regex(texts, r"\r\n?", "\n")
        texts = pc.replace_substring_regex(texts, SPACES, " ")
        texts = pc.replace_substring_regex(texts, r" ?\n ?", "\n")
        texts = pc.replace_substring_regex(texts, r"\n{3,}", "\n\n")
        texts = pc.utf8_trim_whitespace(texts)
    return texts


def html_to_text(text: str) -> str:
    """The visible text of HTML: scripts and styles removed, blocks on lines of their own, entities resolved.

    A "<" or "&" that is no mark-up is kept; a text without any tag has its entities resolved, and is not parsed.
    """
    closed = {name.lower() for name in CLOSING.findall(text)}
    markup = [hit.start() for hit in MARKUP.finditer(text) if len(hit[0]) > 1 and _is_markup(hit, closed)]
    if not markup:
        return re.sub(ENTITY, lambda hit: html.unescape(hit[0]), text)
    tree = LexborHTMLParser(MARKUP.sub(lambda hit: _escaped(hit, closed), text))
    tree.strip_tags(["script", "style", "noscript", "template"])
    for selector, before, after in ((BLOCKS, "\n", "\n"), (LINES, "\n", ""), (CELLS, " ", "")):
        for node in tree.css(selector):
            node.insert_before(before)
            if after:
                node.insert_after(after)
    root = tree.body or tree.root
    return root.text() if root is not None else ""


def _is_markup(hit: re.Match[str], closed: set[str]) -> bool:
    """Whether a match of MARKUP is surely mark-up; `closed` are the names that the text closes somewhere."""
    name = hit[2]
    if name is None:
        return len(hit[0]) > 1
    lower = name.lower()
    if lower not in TAGS or name not in (lower, name.upper()):
        return False
    if hit[1] or lower in closed:
        return True
    if lower in RAW_TEXT:
        return False
    return "=" in hit[3] or (lower in UNCLOSED and name != "P")  # `Set<P>` is code


def _escaped(hit: re.Match[str], closed: set[str]) -> str:
    """A match of MARKUP as the parser is to see it."""
    if hit[0] == "&":
        return "&" if re.match(ENTITY, hit.string[hit.start() : hit.start() + 12]) else "&amp;"
    return hit[0] if _is_markup(hit, closed) else hit[0].replace("&", "&amp;").replace("<", "&lt;")


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
    for rule, fault, value, threshold in rules:
        fails = pc.and_(keep, fault)
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
