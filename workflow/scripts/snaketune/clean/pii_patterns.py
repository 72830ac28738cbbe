"""The patterns of personal data, and the checks behind them: what counts in a window of a text.

A finder takes the text (bytes in UTF-8), the first byte of a window and the byte after it, and yields the spans that
count, in order. `pii` says in words what each kind is and is not.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterator

Span = tuple[int, int]  # first byte, byte after the last

# A letter beyond ASCII of the scripts that people write addresses in (two bytes in UTF-8: Latin to Arabic).
_WIDE = rb"[\xc3-\xdf][\x80-\xbf]"
_CHAR = rb"(?:[A-Za-z0-9_%+'-]|" + _WIDE + rb")"
_LABEL = rb"(?:[A-Za-z0-9]|" + _WIDE + rb")(?:[A-Za-z0-9-]|" + _WIDE + rb"){0,62}"
EMAIL = re.compile(
    rb"(?<![A-Za-z0-9._%+-])(?<![\xc3-\xdf][\x80-\xbf])"
    rb"(?:[A-Za-z0-9_]|" + _WIDE + rb")(?:" + _CHAR + rb"|\.(?=" + _CHAR + rb")){0,63}@"
    rb"(?:" + _LABEL + rb"\.)+(?:xn--[A-Za-z0-9-]{1,59}|[A-Za-z]{2,24}|(?:" + _WIDE + rb"){2,24})"
    rb"(?![A-Za-z0-9_@]|-[A-Za-z0-9])"
)
FILES = (b".png", b".jpg", b".jpeg", b".gif", b".svg", b".webp", b".css", b".js", b".json", b".html", b".xml", b".pdf")
CREDENTIALS = re.compile(
    rb"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{1,15}://"
    rb"([^\s/?#@:\[\]\"'<>]*:[^\s/?#@\[\]\"'<>]+)@(?=[A-Za-z0-9\[\x80-\xff])"
)
IBAN = re.compile(rb"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?:[ -]?[A-Z0-9]){11,30}")
DIGITS = re.compile(rb"(?<![A-Za-z0-9_.])\d+(?![A-Za-z0-9_]|\.\d)")
IPV4 = re.compile(rb"(?<![A-Za-z0-9_.])(?<![A-Za-z_]-)\d{1,3}(?:\.\d{1,3}){3}(?![A-Za-z0-9_]|\.\d|-[A-Za-z])")
NUMBERED = re.compile(rb"(?:\b(?:versions?|ver|v|releases?|build|sections?|sec|chapters?)\.?|\xc2\xa7) ?$", re.I)
IPV6 = re.compile(rb"(?<![A-Za-z0-9_:.])[0-9A-Fa-f:][0-9A-Fa-f:.]{2,44}(?![A-Za-z0-9_:])")
INTERNATIONAL = re.compile(rb"(?<![A-Za-z0-9_+])\+ ?[1-9](?:\d{0,2} ?\(\d{1,5}\))?(?:(?: ?[./-] ?| )?\d)*")
_BEFORE = rb"(?<![A-Za-z0-9_+])(?<!\d[.,/-])"
NATIONAL = re.compile(
    _BEFORE + rb"(?:"
    rb"(?P<america>(?:1[ .-])?(?:[2-9]\d\d(?P<a>[ .-])|\([2-9]\d\d\) ?)[2-9]\d\d(?(a)(?P=a)|[ .-])\d{4})"
    rb"|(?P<brazil>\([1-9]\d\) ?9?\d{4}-\d{4})"
    rb"|(?P<trunk>(?:\(00?[1-9]\d{0,4}\)|00?[1-9]\d{0,4}) ?[ /.-] ?\d{2,8}"
    rb"(?:(?P<t>[ .-])\d{2,5}(?:(?P=t)\d{2,5}){0,3})?)"
    rb")(?!\d|[./-]\d)"
)
ZIP = re.compile(rb"\d{5}-\d{4}")  # of the United States; in New England it begins with 0

# The length of an IBAN by its country (ISO 13616, the registry of SWIFT).
LENGTHS = {
    country: int(length)
    for length, _, countries in (
        line.partition(":")
        for line in [
            "15:NO",
            "16:BE",
            "18:DK,FK,FI,FO,GL,NL,SD",
            "19:MK,SI",
            "20:AT,BA,EE,KZ,LT,LU,MN,XK",
            "21:CH,HR,LI,LV",
            "22:BG,BH,CR,DE,GB,GE,IE,ME,RS,VA",
            "23:AE,GI,IL,IQ,OM,SO,TL",
            "24:AD,CZ,ES,MD,PK,RO,SA,SE,SK,TN,VG",
            "25:LY,PT,ST",
            "26:IS,TR",
            "27:BI,DJ,FR,GR,IT,MC,MR,SM",
            "28:AL,AZ,BY,CY,DO,GT,HU,LB,NI,PL,SV",
            "29:BR,EG,PS,QA,UA",
            "30:JO,KW,MU,YE",
            "31:MT,SC",
            "32:LC",
            "33:RU",
        ]
    )
    for country in countries.split(",")
}
# Who issues cards: the first and the last prefix, and the lengths of the numbers.
_LONG = tuple(range(13, 20))
ISSUERS = (
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),
    ("300", "305", (14,)),  # Diners Club
    ("36", "36", (14,)),
    ("38", "39", (14,)),
    ("6011", "6011", _LONG[3:]),  # Discover
    ("644", "659", _LONG[3:]),
    ("3528", "3589", _LONG[3:]),  # JCB
    ("62", "62", _LONG[3:]),  # UnionPay
    *(
        (prefix, prefix, _LONG) for prefix in ("5018", "5020", "5038", "6304", "6759", "6761", "6762", "6763")
    ),  # Maestro
)
_UNICAST = ipaddress.ip_network("2000::/3")  # all global unicast addresses are in it; `a::b` in code is none of them


def credentials(text: bytearray, start: int, stop: int) -> Iterator[Span]:
    """The `user:secret` of URLs."""
    return (hit.span(1) for hit in CREDENTIALS.finditer(text, start, stop))


def emails(text: bytearray, start: int, stop: int) -> Iterator[Span]:
    """E-mail addresses."""
    for hit in EMAIL.finditer(text, start, stop):
        address = hit[0].lower()
        if not address.endswith(FILES) and not address.startswith(b"git@"):
            yield hit.span()


def ibans(text: bytearray, start: int, stop: int) -> Iterator[Span]:
    """The IBAN at the start of the window, where there is one; further capitals may stand behind it."""
    hit = IBAN.match(text, start, stop)
    if not hit:
        return
    places = [place for place in range(*hit.span()) if text[place] not in b" -"]
    length = LENGTHS.get(hit[0][:2].decode(), 0)
    if not 0 < length <= len(places):
        return
    number = "".join(chr(text[place]) for place in places[:length])
    after = places[length - 1] + 1
    checked = int("".join(str(int(sign, 36)) for sign in number[4:] + number[:4])) % 97
    if checked == 1 and not text[after : after + 1].isalnum():
        yield start, after


def cards(text: bytearray, start: int, stop: int) -> Iterator[Span]:
    """Numbers of payment cards, also between other groups of digits."""
    groups = [hit.span() for hit in DIGITS.finditer(text, start, stop + 2)]
    first = 0
    while first < len(groups):
        after = next((end for end in range(first + 1, first + 7) if _is_card(text, groups[first:end])), first)
        if after > first:
            yield groups[first][0], groups[after - 1][1]
        first = max(after, first + 1)


def _is_card(text: bytearray, groups: list[Span]) -> bool:
    sizes = [stop - start for start, stop in groups]
    joints = {bytes(text[one[1] : other[0]]) for one, other in itertools.pairwise(groups)}
    grouped = all(3 <= size <= 6 for size in sizes[:-1]) and sizes[-1] <= 6 and joints in ({b" "}, {b"-"})
    if not 13 <= sum(sizes) <= 19 or not (grouped or len(sizes) == 1):
        return False
    number = b"".join(text[start:stop] for start, stop in groups).decode()
    return luhn(number) and any(
        low <= number[: len(low)] <= high and len(number) in lengths for low, high, lengths in ISSUERS
    )


def luhn(number: str) -> bool:
    """Whether the last digit agrees with the others (ISO/IEC 7812-1, annex B)."""
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    return (doubled + sum(map(int, number[::-2]))) % 10 == 0


def addresses(text: bytearray, start: int, stop: int) -> Iterator[Span]:
    """Global IPv4 addresses."""
    for hit in IPV4.finditer(text, start, stop + 2):
        numbered = NUMBERED.search(text[max(0, hit.start() - 16) : hit.start()])
        if not numbered and _is_global(hit[0].decode()):
            yield hit.span()


def wide_addresses(text: bytearray, start: int, stop: int) -> Iterator[Span]:
    """Global IPv6 addresses."""
    for hit in IPV6.finditer(text, start, stop + 1):
        written = hit[0].decode().rstrip(".")
        if written.endswith(":") and not written.endswith("::"):
            written = written[:-1]
        if written.count(":") > 1 and _is_global(written):
            yield hit.start(), hit.start() + len(written)


def _is_global(written: str) -> bool:
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return False
    return address.is_global and (address.version == 4 or address in _UNICAST)


def international_phones(text: bytearray, start: int, stop: int) -> Iterator[Span]:
    """Phone numbers with a plus and the code of a country: 8 to 15 digits (ITU E.164)."""
    for hit in INTERNATIONAL.finditer(text, start, stop):
        after = digits = 0
        for group in re.finditer(rb"\d+", hit[0]):
            if digits + len(group[0]) > 15:
                break
            digits += len(group[0])
            after = group.end()
        decimal = hit[0].count(b".") == 1 and b" " not in hit[0] and b"-" not in hit[0]
        if digits >= 8 and not decimal:
            yield hit.start(), hit.start() + after


def national_phones(text: bytearray, start: int, stop: int) -> Iterator[Span]:
    """Phone numbers as they are written within a country."""
    for hit in NATIONAL.finditer(text, start, stop):
        joint = hit["a"] or hit["t"] or b""
        if joint and _goes_on(text, *hit.span(), joint):
            continue
        digits = sum(48 <= byte <= 57 for byte in hit[0])
        most = 17 if hit[0].lstrip(b"(").startswith(b"00") else 12
        if not hit["trunk"] or (9 <= digits <= most and not ZIP.fullmatch(hit[0])):
            yield hit.span()


def _goes_on(text: bytearray, start: int, stop: int, joint: bytes) -> bool:
    """Whether further digits are joined as those of a number are: it is a row of a table, then, and no phone."""
    after = text[stop : stop + 2]
    before = text[max(0, start - 2) : start] if text[start] != ord("(") else b""
    return (after[:1] == joint and after[1:].isdigit()) or (before[1:] == joint and before[:1].isdigit())
