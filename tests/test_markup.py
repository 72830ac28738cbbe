"""HTML becomes what a reader of the page would read; what only looks like HTML stays; and no text takes forever."""

import time

import pytest

from snaketune.clean.markup import html_to_text


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


PAGE = """<!DOCTYPE html><html><head><title>Title</title><style>p {}</style></head><body>
<header>Site <nav><a href="/">Home</a></nav></header>
<div role="navigation">Menu</div><ul role='menu'><li>File</ul>
<main><article><header><h1>Heading</h1></header><p>Body &amp; soul</p><footer>By A. Author</footer></article></main>
<aside>Related</aside><form><input name=q><button>Search</button></form><button>Share</button>
<div role=search>Find</div><footer>(c) Company</footer></body></html>"""


def test_of_a_whole_page_only_its_content_is_left() -> None:
    assert lines(html_to_text(PAGE, boilerplate=True)) == ["Heading", "Body & soul", "By A. Author"]


def test_everything_visible_of_a_page_is_left_where_boilerplate_is_wanted() -> None:
    text = html_to_text(PAGE)
    assert all(word in text for word in ("Site", "Home", "Menu", "Related", "Search", "Share", "Company", "Heading"))
    assert "Title" not in text


@pytest.mark.parametrize("start", ["<html>", "<body class=x>", "<!doctype html>", "<HTML>"])
def test_a_page_is_known_by_its_doctype_or_its_outermost_tags(start: str) -> None:
    assert lines(html_to_text(f"{start}<nav>Home</nav><p>Body", boilerplate=True)) == ["Body"]


def test_of_a_piece_of_html_nothing_is_boilerplate() -> None:
    assert lines(html_to_text("<footer>Note</footer><p>Body</p><!-- <html> -->", boilerplate=True)) == ["Note", "Body"]


def test_a_form_that_wraps_the_whole_page_is_no_boilerplate() -> None:
    page = "<body><form><header>Site</header><p>Body</p><button>Go</button></form></body>"
    assert lines(html_to_text(page, boilerplate=True)) == ["Body"]


def test_boilerplate_within_boilerplate_goes_with_it() -> None:
    page = "<body>" + "<nav><aside>x<nav>y</nav></aside>" * 3 + "</nav>" * 3 + "<p>Body</p></body>"
    assert lines(html_to_text(page, boilerplate=True)) == ["Body"]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<b>a</b><!-->x", "ax"),
        ("<b>a</b><!--->x", "ax"),
        ("<b>a</b><!-- - -- > -->x", "ax"),
        ("<b>a</b><!-- <b> -->x<!-- -->y", "axy"),
        ("<b>a</b><!-- x", "a<!-- x"),
        ("<b>a</b><!-- x -->y<!-- z", "ay<!-- z"),
        ("x<!-- y -->z < &", "xz < &"),
        ("<script><!-- a </script>x<!-- b -->y", "xy"),
        ("<b>a</b>--> <!-- x", "a--> <!-- x"),
        ("<p title='a > b' class=\"c\" data-x=1 hidden>a</p>", "a"),
        ("<b>&lt;p&gt; &#60; &amp;amp;</b>", "<p> < &amp;"),
        ("a &amp; b &unknown; &;", "a & b &unknown; &;"),
    ],
)
def test_comments_attributes_and_entities(html: str, text: str) -> None:
    assert html_to_text(html).strip() == text


def test_what_is_nested_too_deep_keeps_its_text() -> None:
    deep = "<div>" * 3000 + "inmost" + "</div>" * 3000 + "<p>after</p>"
    assert lines(html_to_text(deep)) == ["inmost", "after"]


def test_many_elements_side_by_side_are_not_deep() -> None:
    assert html_to_text("<div><i>x</i></div><br>" * 2000).split() == ["x"] * 2000


UGLY = {
    "signs": "<",
    "ampersands": "&",
    "numbers": "&#1",
    "nested": "<div>",
    "nested and closed by others": "<div></b>",
    "formatting": "<b><i><a href=x>",
    "formatting across blocks": "<b><p></b>",
    "tables": "<table><tr><td>",
    "lists": "<ul><li>",
    "comments": "<!--",
    "almost closed comments": "<!-- --",
    "doctypes": "<!DOCTYPE",
    "attributes": "<a b ",
    "quotes": "<a b='",
    "tags in quotes": "<p b='<a ' ",
    "closing": "</a ",
    "surroundings": "<body><nav>x</nav>",
    "spaces": "<p            ",
}


@pytest.mark.parametrize("piece", UGLY.values(), ids=UGLY.keys())
def test_the_time_for_a_text_grows_with_its_length_and_not_with_its_square(piece: str) -> None:
    """32 times the text takes less than 128 times as long (1024 were quadratic); very short times are noise."""
    taken = []
    for size in (20_000, 640_000):
        text = "<b>x</b>" + piece * (size // len(piece))
        fastest = float("inf")
        for _ in range(2):
            start = time.process_time()
            html_to_text(text, boilerplate=True)
            fastest = min(fastest, time.process_time() - start)
        taken.append(fastest)
    assert taken[1] < 128 * max(taken[0], 0.002)
