"""The configuration's sections about cleaning: what is mended in a text, what is reported, and which rows go."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from snaketune.sections import Section, Strings


class Fill(Section):
    """What takes the place of a missing value, with `clean.missing: fill`; empty: a row without it is dropped."""

    prompt: str | None = Field(None, description="For rows of a source that has prompts.")
    completion: str | None = Field(None, description="Of the completion.")
    label: str | None = Field(None, description="Of the label.")


class Gopher(Section):
    """Quality rules of Gopher (Rae et al. 2021, table A1). Words are runs between white space."""

    enabled: bool = Field(False, description="Judge texts by these rules.")
    min_words: int = Field(50, ge=0, description="Fewest words.")
    max_words: int = Field(100_000, ge=1, description="Most words.")
    min_mean_word_length: float = Field(3, ge=0, description="Shortest mean length of a word (characters).")
    max_mean_word_length: float = Field(10, gt=0, description="Longest mean length of a word (characters).")
    max_symbol_ratio: float = Field(0.1, ge=0, description="Most `#`, and most ellipses, for each word.")
    max_bullet_lines: float = Field(0.9, ge=0, le=1, description="Largest share of lines that begin with a bullet.")
    max_ellipsis_lines: float = Field(0.3, ge=0, le=1, description="Largest share of lines that end with an ellipsis.")
    min_alphabetic_words: float = Field(0.8, ge=0, le=1, description="Smallest share of words with a letter.")
    min_stop_words: int = Field(
        2,
        ge=0,
        description="Fewest different English stop words of the, be, to, of, and, that, have, with; 0: any language.",
    )


class Repetition(Section):
    """Repetition rules of Gopher (Rae et al. 2021, table A1): the largest shares of repeated text."""

    enabled: bool = Field(False, description="Judge texts by these rules.")
    max_duplicate_lines: float = Field(0.3, ge=0, le=1, description="Lines that stood before, of all lines.")
    max_duplicate_line_chars: float = Field(0.2, ge=0, le=1, description="Their characters, of all characters.")
    max_duplicate_paragraphs: float = Field(0.3, ge=0, le=1, description="Paragraphs that stood before, of all.")
    max_duplicate_paragraph_chars: float = Field(0.2, ge=0, le=1, description="Their characters, of all characters.")
    max_top_2gram: float = Field(0.20, ge=0, le=1, description="Characters in the commonest run of 2 words.")
    max_top_3gram: float = Field(0.18, ge=0, le=1, description="Characters in the commonest run of 3 words.")
    max_top_4gram: float = Field(0.16, ge=0, le=1, description="Characters in the commonest run of 4 words.")
    max_duplicate_5grams: float = Field(0.15, ge=0, le=1, description="Characters in repeated runs of 5 words.")
    max_duplicate_6grams: float = Field(0.14, ge=0, le=1, description="Characters in repeated runs of 6 words.")
    max_duplicate_7grams: float = Field(0.13, ge=0, le=1, description="Characters in repeated runs of 7 words.")
    max_duplicate_8grams: float = Field(0.12, ge=0, le=1, description="Characters in repeated runs of 8 words.")
    max_duplicate_9grams: float = Field(0.11, ge=0, le=1, description="Characters in repeated runs of 9 words.")
    max_duplicate_10grams: float = Field(0.10, ge=0, le=1, description="Characters in repeated runs of 10 words.")


class C4(Section):
    """Rules of C4 (Raffel et al. 2020, section 2.2): bad lines are removed, then bad texts dropped. For English."""

    enabled: bool = Field(False, description="Mend and judge texts by these rules.")
    terminal_punctuation: bool = Field(True, description="Remove lines that do not end with . ! ? or a quotation mark.")
    min_words_per_line: int = Field(3, ge=0, description="Remove lines with fewer words.")
    max_word_length: int = Field(1000, ge=1, description="Remove lines with a longer word (characters).")
    policy_lines: bool = Field(True, description="Remove lines about JavaScript, cookies, and terms of use.")
    min_sentences: int = Field(
        5, ge=0, description="Fewest sentences that a text must have left after bad lines were removed."
    )
    lorem_ipsum: bool = Field(True, description="Drop texts with `lorem ipsum`.")
    curly_bracket: bool = Field(True, description="Drop texts with `{` or `}`, which are mostly code.")


class FineWeb(Section):
    """Rules of FineWeb (Penedo et al. 2024, section 3.5)."""

    enabled: bool = Field(False, description="Judge texts by these rules.")
    min_punctuated_lines: float = Field(0.12, ge=0, le=1, description="Smallest share of lines that end a sentence.")
    max_short_lines: float = Field(0.67, ge=0, le=1, description="Largest share of lines of at most 30 characters.")
    max_duplicate_line_chars: float = Field(0.01, ge=0, le=1, description="Characters in lines that stood before.")
    max_newlines_per_word: float = Field(0.3, ge=0, description="Most line breaks for each word.")


class Quality(Section):
    """Published rules for web text. They judge the completion (plain text: the text), and are off by default: most
    were made for long pages, and a good short answer fails them."""

    gopher: Gopher = Field(default_factory=Gopher, description="Quality rules of Gopher.")
    repetition: Repetition = Field(default_factory=Repetition, description="Repetition rules of Gopher.")
    c4: C4 = Field(default_factory=C4, description="Rules of C4.")
    fineweb: FineWeb = Field(default_factory=FineWeb, description="Rules of FineWeb.")


PiiKind = Literal["email", "phone", "ip", "card", "iban", "url_credentials"]


class Pii(Section):
    """Personal data that patterns can find; names and addresses they cannot. Only kinds and counts are ever reported,
    never what was found."""

    action: Literal["report", "mask", "drop", "off"] = Field(
        "report", description="Count it, put `[EMAIL]` and the like in its place, drop the row, or do not look."
    )
    kinds: list[PiiKind] = Field(
        ["email", "phone", "ip", "card", "iban", "url_credentials"],
        description="What is looked for. Cards and IBANs must pass their checks; private IP addresses do not count.",
    )


class Terms(Section):
    """A list of words or phrases, one a line, matched as whole words whatever their case."""

    action: Literal["report", "drop", "off"] = Field("off", description="Count them, drop the row, or do not look.")
    words: str | None = Field(None, description="A file with one word or phrase a line; empty: the shipped list.")
    max_hits: int = Field(0, ge=0, description="Of `drop`: rows with more hits go.")


class Spelling(Section):
    """Spelling correction by symspellpy. It harms names, code and technical words: look at its effects first."""

    enabled: bool = Field(False, description="Correct spelling. Code, URLs, numbers, names and capitals are left.")
    dictionary: str | None = Field(
        None, description="A frequency list, `word count` on each line; empty: symspellpy's own, of English."
    )
    max_edits: int = Field(1, ge=1, le=2, description="Most edits between a word and its correction.")
    min_word_length: int = Field(4, ge=1, description="Shorter words are left as they are.")


class Clean(Section):
    """What is mended in a text, what is reported, and which rows are dropped."""

    missing: Literal["drop", "fill"] = Field(
        "drop", description="Rows with a missing prompt or completion: drop them, or put `fill` in its place."
    )
    missing_markers: Strings = Field(
        [],
        description="Texts that stand for a missing value beside nothing and white space; compared whole, by case.",
        examples=[["NA", "N/A", "null"]],
    )
    fill: Fill = Field(default_factory=Fill, description="What takes the place of a missing value.")
    encoding: bool = Field(True, description="Mend mojibake (ftfy), where a quick test sees signs of it.")
    html: bool = Field(True, description="Turn HTML mark-up and entities into text.")
    boilerplate: bool = Field(
        True, description="Of whole HTML pages, leave out navigation, header, footer, aside, form and button."
    )
    unicode: Literal["NFC", "NFKC", "none"] = Field("NFC", description="Unicode normalisation form.")
    control_characters: bool = Field(True, description="Remove control and zero-width characters.")
    whitespace: bool = Field(
        True, description="Collapse runs of spaces and of blank lines; strip the ends of lines and of the text."
    )
    case: Literal["keep", "lower"] = Field("keep", description="Lower the case of all letters.")
    spelling: Spelling = Field(default_factory=Spelling, description="Spelling correction.")
    min_chars: int = Field(1, ge=1, description="Shortest completion (characters) that is kept.")
    max_chars: int = Field(1_000_000, ge=1, description="Longest row (characters, prompt and completion).")
    languages: Strings = Field(
        [],
        description="Keep only rows in these languages (ISO 639-1, else 639-3; by py3langid); empty: any.",
        examples=[["en"]],
    )
    min_language_probability: float = Field(
        0.5, ge=0, le=1, description="A row whose language is less sure is kept whatever its language."
    )
    quality: Quality = Field(default_factory=Quality, description="Published rules for web text.")
    pii: Pii = Field(default_factory=Pii, description="Personal data.")
    toxicity: Terms = Field(default_factory=Terms, description="Insults and slurs, by a list of words.")
    identity_terms: Terms = Field(
        default_factory=Terms, description="Words for groups of people, to see how often each is spoken of."
    )

    @model_validator(mode="after")
    def ordered(self) -> Clean:
        if self.min_chars > self.max_chars:
            raise ValueError("`min_chars` is larger than `max_chars`: every row would be dropped")
        if self.missing == "drop" and self.fill != Fill():
            raise ValueError("`fill` belongs to `missing: fill`")
        return self
