"""Where the words of running text begin and end."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right

# Categories of characters that most tokenizers drop: as words of their own they would be tagged unseen.
_SHAPELESS = ("Mn", "Me", "Cf")
_ZERO_WIDTH_JOINER = "\u200d"
_SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
# First and last character of the blocks of scripts that put nothing between words (Unicode 16). Tibetan, for one, has
# a mark between syllables.
_WITHOUT_BLANKS = (
    ("\u0e00", "\u0eff"),  # Thai, Lao
    ("\u1000", "\u109f"),  # Myanmar
    ("\u1780", "\u17ff"),  # Khmer
    ("\u2e80", "\u2fdf"),  # radicals
    ("\u3005", "\u3007"),  # iteration mark, closing mark, zero
    ("\u3040", "\u312f"),  # Hiragana, Katakana, Bopomofo
    ("\u31a0", "\u31ff"),  # more Bopomofo and Katakana
    ("\u3400", "\u4dbf"),  # Han
    ("\u4e00", "\u9fff"),
    ("\uf900", "\ufaff"),
    ("\uff66", "\uff9f"),  # Katakana of half the width
    ("\U00016fe0", "\U00018aff"),  # Tangut and marks of Han
    ("\U0001b000", "\U0001b16f"),  # historic kana
    ("\U00020000", "\U0003ffff"),  # Han
)
_BORDERS = [border for first, last in _WITHOUT_BLANKS for border in (ord(first), ord(last) + 1)]


def split_words(text: str, borders: set[int] | None = None) -> list[tuple[int, int]]:
    """Split a text into words at white space and around punctuation, and at given offsets.

    Each punctuation mark or symbol (Unicode categories P and S) is a word of its own. It is split off everywhere, and
    not only next to an entity, lest the split itself betray where the entities are. For the same reason each character
    of a script without blanks between words, such as Chinese, Japanese and Thai, is a word of its own. What has no
    shape of its own belongs to the character before it: combining marks, variation selectors and format characters
    (categories Mn, Me and Cf) and skin tones. Emoji that a zero-width joiner makes one are one word.

    Args:
        text: Any text.
        borders: Offsets at which a word must not continue.

    Returns:
        Start and exclusive end of each word, in characters.

    Example:
        >>> split_words("Ann's here.")
        [(0, 3), (3, 4), (4, 5), (6, 10), (10, 11)]
    """
    borders = borders or set()
    words: list[tuple[int, int]] = []
    begun_by = ""  # what the last word began with: "mark", punctuation or a symbol, "single" or "letter"
    for offset, character in enumerate(text):
        if character.isspace():
            continue
        category = unicodedata.category(character)
        if category[0] in "PS":
            kind = "mark"
        else:
            kind = "single" if _is_without_blanks(character) else "letter"
        if category in _SHAPELESS:
            joins = True
        elif begun_by == "mark":
            joins = character in _SKIN_TONES or (category[0] == "S" and text[offset - 1] == _ZERO_WIDTH_JOINER)
        else:
            joins = kind == begun_by == "letter"
        if joins and words and words[-1][1] == offset and offset not in borders:
            words[-1] = (words[-1][0], offset + 1)
        else:
            words.append((offset, offset + 1))
            begun_by = kind
    return words


def _is_without_blanks(character: str) -> bool:
    return character >= "\u0e00" and bisect_right(_BORDERS, ord(character)) % 2 == 1


__all__ = ["split_words"]
