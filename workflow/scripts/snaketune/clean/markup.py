"""HTML to its visible text, by selectolax (Lexbor), without taking code and comparisons for mark-up.

A parser of HTML takes every "<" before a letter for a tag, and all that follows an unclosed comment or script for its
content. So it is given only what is surely mark-up: `List<String>` and `a <b` stay as they are.

Every step is linear in the text. Two guards see to it: a comment is looked for with its end, and what is nested
deeper than browsers allow (512, as in Chromium) is opened up, since the parser walks the stack of open elements at
each tag: a hundred thousand nested <div> would cost it 12 s.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from functools import lru_cache

from selectolax.lexbor import LexborHTMLParser, LexborNode

_ENTITY = r"&(?:#[0-9]{1,8}|#[xX][0-9A-Fa-f]{1,8}|[A-Za-z]{2,8}[0-9]?);"
ENTITY = re.compile(_ENTITY)
# A tag has attributes as the standard writes them, and at most 100 of them, so that text which only looks like a tag is
# not searched through again and again. Without groups and flags the search is twice as fast.
_NAME = "[A-Za-z][A-Za-z0-9]*+"
_ATTRIBUTE = r"""(?>\s+[A-Za-z_:@][\w:.@-]*(?>\s*=\s*(?>"[^"]*"|'[^']*'|[^\s"'<>=`]+))?)"""
_DOCTYPE = "![Dd][Oo][Cc][Tt][Yy][Pp][Ee][^<>]*>"
# A tag, what begins a comment, an empty comment, a doctype, an entity; or a lone sign.
TOKEN = re.compile(rf"<(?:/?{_NAME}(?>>|{_ATTRIBUTE}{{0,100}}+\s*+/?>)|!--(?:-?>)?|{_DOCTYPE})?|&(?:{_ENTITY[1:]})?")
TAG = re.compile(rf"<(/?)({_NAME})")
PAGE = re.compile(r"<(?:html|body|!doctype)\b", re.IGNORECASE)
DEEPEST = 512


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
# They hold nothing, or the next of their kind closes them: they do not nest by themselves.
SHALLOW = RAW_TEXT | _names(
    "area base body br col colgroup dd dt embed head hr html img input li link meta optgroup option p param rp rt "
    "source tbody td tfoot th thead tr track wbr"
)
HIDDEN = ["script", "style", "noscript", "template"]
# What stands before and after an element.
AROUND = {
    **dict.fromkeys(_names("p div h1 h2 h3 h4 h5 h6 pre blockquote section article table ul ol dl"), ("\n", "\n")),
    **dict.fromkeys(_names("br li tr dt dd option"), ("\n", "")),
    **dict.fromkeys(_names("td th"), (" ", "")),
}
SPACED = ",".join(sorted(AROUND))
# What surrounds the content of a page, by element or by role (ARIA's landmarks).
BOILERPLATE = (
    "nav,header,footer,aside,form,button,menu,[role=navigation],[role=banner],[role=contentinfo],[role=search],"
    "[role=complementary],[role=menu],[role=menubar]"
)
CONTENT = _names("article main section")
PARAGRAPHS = "p,article,main,h1"


def html_to_text(text: str, boilerplate: bool = False) -> str:
    """The visible text of HTML: scripts and styles removed, blocks on lines of their own, entities resolved.

    A "<" or "&" that is no mark-up is kept; a text without any tag has its entities resolved, and is not parsed.
    `boilerplate`: of a whole page, leave out what surrounds its content.
    """
    source, page = _escape(text)
    if source is None:
        return ENTITY.sub(lambda hit: html.unescape(hit[0]), text)
    tree = LexborHTMLParser(source)
    tree.strip_tags(HIDDEN)
    if boilerplate and page and tree.body is not None:
        _strip_surroundings(tree.body)
    for node in tree.css(SPACED):
        before, after = AROUND[node.tag]
        node.insert_before(before)
        if after:
            node.insert_after(after)
    root = tree.body or tree.root
    return root.text() if root is not None else ""


def _escape(text: str) -> tuple[str | None, bool]:
    """The text as the parser is to see it, None where nothing in it is mark-up; and whether it is a whole page."""
    tokens = set(TOKEN.findall(text))  # most stand there many times
    closed = {token[2:-1].rstrip().lower() for token in tokens if token[:2] == "</"}
    sure = {token for token in tokens if _is_markup(token, closed)}
    if not sure and "<!--" not in tokens:
        return None, False
    nesting = _Nesting() if text.count("<") > DEEPEST else None
    sound = sure | {token for token in tokens if token[0] == "&" and len(token) > 1}
    if nesting or len(sound) < len(tokens):  # there are comments, lone signs, or tags that are none
        return _rewritten(text, sure, sound, nesting)
    return text, _is_page(sure)


def _rewritten(text: str, sure: set[str], sound: set[str], nesting: _Nesting | None) -> tuple[str | None, bool]:
    """As `_escape`, token by token. sure: tokens that are mark-up; sound: those that the parser is to see as they
    are, if they do not nest too deep and stand in no comment."""
    last_comment = text.rfind("-->")
    parts: list[str] = []
    done = resume = 0
    commented = False
    met: set[str] = set()  # of `sure`, outside of comments
    for hit in TOKEN.finditer(text):
        token = hit[0]
        if nesting is None and token in met:
            continue
        start = hit.start()
        if start < resume:
            continue  # in a comment
        if token == "<!--" and start + 4 <= last_comment:
            resume = text.index("-->", start + 4) + 3
            commented = True
            continue
        if token in sure:
            met.add(token)
        seen = token if token in sound else token.replace("&", "&amp;").replace("<", "&lt;")
        if nesting and token in sure:
            seen = nesting.bounded(token)
        if seen != token:
            parts += (text[done:start], seen)
            done = hit.end()
    parts.append(text[done:])
    return ("".join(parts) if met or commented else None), _is_page(met)


def _is_page(sure: set[str]) -> bool:
    return any(map(PAGE.match, sure))


def _is_markup(token: str, closed: set[str]) -> bool:
    """Whether a token of TOKEN is surely mark-up; `closed` are the names that the text closes somewhere."""
    sure, closes = _by_itself(token)
    return sure or closes in closed


@lru_cache(maxsize=4096)  # texts have most of their tokens in common
def _by_itself(token: str) -> tuple[bool, str | None]:
    """Whether a token is surely mark-up in any text, and the name whose closing tag makes it so; None: nothing does."""
    tag = TAG.match(token)
    if tag is None:
        return token[:2] == "<!" and token != "<!--", None  # a doctype or an empty comment
    name = tag[2]
    lower = name.lower()
    if lower not in TAGS or name not in (lower, name.upper()):
        return False, None
    alone = lower not in RAW_TEXT and ("=" in token or (lower in UNCLOSED and name != "P"))  # `Set<P>` is code
    return bool(tag[1]) or alone, lower


class _Nesting:
    """How deep the tags of a text nest, as far as their names tell; what is deeper than DEEPEST is left out."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()
        self.depth = 0

    def bounded(self, token: str) -> str:
        """A token that is mark-up as the parser is to see it."""
        tag = TAG.match(token)
        name = tag[2].lower() if tag else ""
        if tag is None or name in SHALLOW:
            return token
        above = self.depth
        if not tag[1]:
            self.open[name] += 1
            self.depth += 1
            return token if above < DEEPEST else "\n"
        if self.open[name]:  # a closing tag that closes nothing leaves the others open
            self.open[name] -= 1
            self.depth -= 1
        return token if above <= DEEPEST else "\n"


def _strip_surroundings(body: LexborNode) -> None:
    """Remove what surrounds the content of a page, below its body."""
    gone: set[int] = set()
    doomed = []
    for node in body.css(BOILERPLATE):
        above = list(_ancestors(node))
        if any(parent.mem_id in gone for parent in above):
            continue  # goes with its parent
        if node.tag in ("header", "footer") and any(parent.tag in CONTENT for parent in above):
            continue  # of an article, not of the page: it may hold the title
        if node.tag == "form" and node.css_first(PARAGRAPHS) is not None:
            continue  # some servers wrap the whole page in a form
        gone.add(node.mem_id)
        doomed.append(node)
    for node in doomed:
        node.decompose()


def _ancestors(node: LexborNode) -> list[LexborNode]:
    found = []
    parent = node.parent
    while parent is not None:
        found.append(parent)
        parent = parent.parent
    return found
