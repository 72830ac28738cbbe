"""The quality rules once more, in plain Python from their definitions: what the kernels are held against."""

import re
from collections import Counter
from itertools import pairwise

SENTENCE_MARKS = ".!?…。．！？｡؟۔।॥։።፧።៖៕᠃᠉"
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
ASCII_SIGNS = "".join(chr(code) for code in range(128) if not chr(code).isalnum())
POLICY = ("javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies")
POLICY += ("use cookies",)


def length(text: str) -> int:
    return len(text) - text.count("\r")


def paragraphs_of(text: str) -> list[list[str]]:
    """Runs of stripped lines without a blank line in between."""
    made: list[list[str]] = [[]]
    for line in map(str.strip, text.split("\n")):
        if line:
            made[-1].append(line)
        elif made[-1]:
            made.append([])
    return [paragraph for paragraph in made if paragraph]


def duplicates(elements: list[tuple[object, int]]) -> tuple[int, int]:
    """How many of the (key, length) stood there before, and their lengths together."""
    seen: set[object] = set()
    count = chars = 0
    for key, size in elements:
        count, chars = (count + 1, chars + size) if key in seen else (count, chars)
        seen.add(key)
    return count, chars


def top_run(words: list[str], size: int) -> int:
    """Characters of the commonest run of words, times its occurrences; 0 where none comes twice."""
    runs = Counter(tuple(words[at : at + size]) for at in range(len(words) - size + 1))
    run, times = max(runs.items(), key=lambda item: item[1], default=((), 0))  # of equals, the first
    return times * (sum(map(length, run)) + size - 1) if times > 1 else 0


def repeated_runs(words: list[str], size: int) -> int:
    """Characters of runs of words that stood there before, going on behind each that is found."""
    seen, at, chars = set(), 0, 0
    while at + size <= len(words):
        run = tuple(words[at : at + size])
        if run in seen:
            chars += sum(map(length, run))
            at += size
        else:
            seen.add(run)
            at += 1
    return chars


def ends_sentence(word: str) -> bool:
    return word.rstrip("\"'”’»)]}").endswith(tuple(SENTENCE_MARKS))


def sentences(line: str) -> int:
    words = line.split()
    inner = (ends_sentence(one) and not "a" <= other[0] <= "z" for one, other in pairwise(words))
    return 1 + sum(inner)


def values(text: str) -> dict[str, float]:
    """The value of each rule, by rule."""
    words = text.split()
    paragraphs = paragraphs_of(text)
    lines = [line for paragraph in paragraphs for line in paragraph]
    chars, n_words, n_lines = length(text), max(len(words), 1), max(len(lines), 1)
    same_lines, same_line_chars = duplicates([(tuple(line.split()), length(line)) for line in lines])
    same_paragraphs, same_paragraph_chars = duplicates(
        [(tuple(tuple(line.split()) for line in part), length("\n".join(part))) for part in paragraphs]
    )
    mean = sum(map(length, words)) / n_words
    cores = {word.strip(ASCII_SIGNS).lower() for word in words}
    made = {
        "gopher_min_words": len(words),
        "gopher_max_words": len(words),
        "gopher_min_mean_word_length": mean,
        "gopher_max_mean_word_length": mean,
        "gopher_max_symbol_ratio": max(text.count("#"), text.count("...") + text.count("…")) / n_words,
        "gopher_max_bullet_lines": sum(line.startswith(("•", "-")) for line in lines) / n_lines,
        "gopher_max_ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines) / n_lines,
        "gopher_min_alphabetic_words": sum(any(map(str.isalpha, word)) for word in words) / n_words,
        "gopher_min_stop_words": len(STOP_WORDS & cores),
        "repetition_max_duplicate_lines": same_lines / n_lines,
        "repetition_max_duplicate_line_chars": same_line_chars / max(chars, 1),
        "repetition_max_duplicate_paragraphs": same_paragraphs / max(len(paragraphs), 1),
        "repetition_max_duplicate_paragraph_chars": same_paragraph_chars / max(chars, 1),
        "c4_min_sentences": sum(map(sentences, lines)),
        "c4_lorem_ipsum": len(re.findall("lorem ipsum", " ".join(words), re.IGNORECASE)),
        "c4_curly_bracket": text.count("{") + text.count("}"),
        "fineweb_min_punctuated_lines": sum(line.endswith(tuple(SENTENCE_MARKS + "\"'”’")) for line in lines) / n_lines,
        "fineweb_max_short_lines": sum(length(line) <= 30 for line in lines) / n_lines,
        "fineweb_max_duplicate_line_chars": same_line_chars / max(chars - text.count("\n"), 1),
        "fineweb_max_newlines_per_word": text.count("\n") / n_words,
    }
    made |= {f"repetition_max_top_{size}gram": top_run(words, size) / max(chars, 1) for size in (2, 3, 4)}
    for size in range(5, 11):
        made[f"repetition_max_duplicate_{size}grams"] = repeated_runs(words, size) / max(chars, 1)
    return made


def mended(text: str, c4: dict[str, object]) -> str:
    """The text without the lines that C4 removes."""
    kept = []
    for line in map(str.strip, text.split("\n")):
        words = line.split()
        ends_well = line.endswith((".", "!", "?", '"', "'", "”", "’")) and not line.endswith("...")
        small = "".join(letter.lower() if letter.isascii() else letter for letter in line)
        bad = c4["terminal_punctuation"] and not ends_well
        bad |= len(words) < c4["min_words_per_line"] or any(length(word) > c4["max_word_length"] for word in words)
        bad |= c4["policy_lines"] and any(phrase in small for phrase in POLICY)
        kept += [] if bad else [line]
    return "\n".join(kept).strip()
