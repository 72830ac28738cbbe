"""Strings on which tokenizers part: every kind of character, long runs, mixed line ends, broken words, added tokens."""

from __future__ import annotations

from typing import Any

from snaketune.tokens.tokenizer import added_texts

# A character or two of every kind of script and sign, the borders of the planes, and what is invisible; in hex.
CODE_POINTS = (
    "61 5A 30 39 5F 2D 27 22 5C 2F 3C 3E 7C 26 23 25 40 7E 5E 60 24 20 9 A D B C 0 1 1B 7F 85 A0 AD BC B2 AA DF FF "
    "100 149 17F 1C5 2B0 2C6 300 308 301 345 391 3C9 416 44F 531 561 5D0 5E9 5C1 61F 628 660 710 780 7C0 800 905 94D "
    "966 985 A05 A85 B05 B85 C05 C85 D05 D85 E01 E33 E50 E81 F20 F40 1000 1040 10D0 1100 AC00 13A0 1401 1681 16A0 "
    "1780 17E0 180E 1810 1900 1980 1A00 1B05 1B83 1BC0 1C00 1C5A 1C80 1D00 1E00 1EF9 1F00 1FB3 200C 200D 200E 2028 "
    "2029 2030 2047 2070 2080 20DD 2135 2163 2180 2192 2200 2318 2400 2460 24EA 2500 25A0 263A 2702 283F 2900 2A00 "
    "2B00 2C00 2C80 2D00 2D63 2D80 2E00 2E80 2F00 2FF0 3000 3007 3021 3042 309E 30A2 30FC 309B 3105 3131 3190 3200 "
    "3280 3371 3400 4DC0 4E00 9FA5 A000 A4D0 A500 A640 A6A0 A730 A800 A840 A880 A8E0 A90A A960 A980 A9E0 AA00 AA60 "
    "AA80 AB01 AB70 ABC0 D7A3 D7B0 E000 F8FF 8C48 FB00 FB4F FDF2 FDFA FE0F FE10 FE20 FE30 FE50 FEFC FEFF FF00 FF21 "
    "FF19 FF71 FF9E FFDC FFFC FFFD FFFE FFFF 10000 10140 10280 10330 10400 104A0 10800 10900 10A00 10B00 10C00 10E60 "
    "11005 11066 11090 11103 11183 114D0 11650 11700 12000 13000 14400 16800 16B00 16F00 17000 1B000 1BC70 1D11E "
    "1D158 1D165 1D49C 1D7D8 1D900 1E000 1E900 1E950 1EE00 1F000 1F0A1 1F100 1F170 1F1E9 1F30D 1F389 1F44D 1F3FD "
    "1F4A5 1F600 1F680 1F700 1F780 1F800 1F916 1F9D1 1FA70 1FAE0 1FB00 1FBF0 20000 2A700 2B740 2CEB0 4E3D 30000 31350 "
    "323B0 33479 1E6D5 A7CE E0020 E0100 F0000 10FFFF "
)
PHRASES = (
    "",
    *(" " * count for count in (1, 2, 3, 16, 257)),
    *("\n" * count for count in (2, 3, 40)),
    *(f"a{end}b{end}{end}c{end} d{end}" for end in ("\r\n", "\r", "\n", "\n\r", "\u2028", "\x85", "\x0b")),
    "a" * 5000,
    "ab" * 2500,
    "x" * 200 + " " + "y" * 200,
    "é" * 1000,
    "\u0301" * 300,
    "\U0001f389" * 300,
    "\x00" * 50,
    *("1" * count for count in (1, 2, 3, 4, 7, 1000)),
    "3.14159, -1e10, 0xFF, 1_000_000, 1,234,567.89",
    "\u0660\u0661\u0662\u0663 ०१२ ４５６ ¹²³ ⅣⅤ ½¾",
    "12:34:56+00:00 2024-02-30",
    "I'm you're he's we'll they'd I've 'tis",
    "I'M YOU'RE HE'S WE'LL THEY'D I'VE",
    "I’m ‘it’ “q” ʼs 'ſ 's's''s",
    "donauDampfschifffahrtsGESELLSCHAFTskapitän",
    "CamelCaseXMLHttpRequest snake_case kebab-case",
    "ǅ ǈ ᾳ ﬃ İi ıI ß ẞ",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7\U0001f1e9 ❤\ufe0f\u200d\U0001f525 1\ufe0f\u20e3 #\ufe0f\u20e3",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\xe9 e\u0301 \xc5 A\u030a \u212b ﬁ Ⅷ ｶﾞ",
    "q\u0323\u0307 q\u0307\u0323",
    "각 \u1100\u1161\u11a8 한",
    "\u0300 leads",
    "a\u0310éö\u0332",
    "ก\u0e47 กำ น\u0e49ำ",
    "क\u094d\u200dष क\u094dष\u093f",
    "日本語のテスト。漢字かな交じり文、カタカナ",
    "中文，标点。「引号」",
    "한국어 띄어쓰기",
    "ไม\u0e48ม\u0e35ช\u0e48องว\u0e48าง",
    "\u0627\u0644\u0639\u064e\u0631\u064e\u0628\u0650\u064a\u064e\u0651\u0629 \u0661\u0662\u0663",
    "\u05e2\u05b4\u05d1\u05b0\u05e8\u05b4\u05d9\u05ea",
    "\ufeffbom",
    "zero\u200bwidth\u200djoin\u2060er",
    "\u202ertl\u202c",
    "a\xa0b\u2009c\u3000d\u1680e\u202f",
    "\t\tx \t y\t",
    "def f(x):\n    return x ** 2  # sq\n\n\n\tif x:\n\t\tpass\n",
    '{"a": [1, 2.5e-3, null], "b": "\\u00e9\\n"}',
    "https://a.example/p?q=1&r=%20#f",
    "<a href='x'>&amp;</a><!-- c -->",
    "C:\\dir\\file.txt",
    "$x^2 + \\frac{1}{2}$",
    "...!!!???;;;",
    "-----=====*****",
    "((([[[{{{}}}]]])))",
    "a.b,c;d:e!f?g",
    "…—–·•§¶†‡",
    "!\n?\n",
    " !",
    "  !",
    "\n !",
    "word ",
    " word",
    "  word  ",
    "\nword\n",
    " \nword \n ",
    "a  b   c    d",
    " \n \n ",
    "\n \n",
    "x\n\n  y",
    "  \n\tz",
    "â€™ Ã© ï»¿",
    "\ud7ff\ue000\ufffd",
    "\x00\x01\x02 \x7f\x80\x9f",
    "a\x00b",
    "mixé日\U0001f44d1 a",
)


def hostile(tokenizer: Any) -> list[str]:
    """The strings, and the added tokens of a tokenizer written in text."""
    special = [text for text in added_texts(tokenizer) if text.strip()][:40]
    characters = [chr(int(code, 16)) for code in CODE_POINTS.split()]
    return [
        *PHRASES,
        *(f"e{mark}n 1{mark}2 .{mark}. {mark}n  {mark}\n{mark}" for mark in characters),
        *("".join(characters[start : start + 7]) for start in range(0, len(characters), 7)),
        *special,
        *(f"a {text} b{text}c {text[:-1]} {text[1:]} {text}{text}" for text in special),
    ]
