"""Words that a tokenizer reads as it reads them in running text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase


def words_as_in_text(tokenizer: PreTrainedTokenizerBase, sentences: Iterable[Sequence[str]]) -> list[list[str]]:
    """Sentences for `tokenizer(..., is_split_into_words=True)`, which then gives the tokens of the running text.

    Byte-level tokenizers (RoBERTa, ModernBERT) write the blank before a word into its first token. Of split words most
    of them see none, unless they were loaded with `add_prefix_space=True`, and read all words as if they were one; for
    these every word but a sentence's first gets its blank here. For other tokenizers the words stay as they are.

    Args:
        tokenizer: A fast tokenizer.
        sentences: Lists of words.
    """
    if not _loses_blanks(tokenizer):
        return [list(words) for words in sentences]
    return [[" " * blanks_before(words, place) + word for place, word in enumerate(words)] for words in sentences]


def join_words(words: Sequence[str]) -> str:
    """The running text of words, a single blank before each but the first that does not bring its own."""
    return "".join(" " * blanks_before(words, place) + word for place, word in enumerate(words))


def blanks_before(words: Sequence[str], place: int) -> int:
    """How many blanks, 0 or 1, separate a word from those before it in the text that they make together.

    A word that begins with a blank of its own needs none, and one that is empty has nothing to separate.
    """
    word = words[place]
    return int(place > 0 and bool(word) and not word[0].isspace())


def _loses_blanks(tokenizer: PreTrainedTokenizerBase) -> bool:
    in_text = tokenizer("a a", add_special_tokens=False)["input_ids"]
    split, with_blank = (
        tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]
        for words in (["a", "a"], ["a", " a"])
    )
    return split != in_text and with_blank == in_text


__all__ = ["blanks_before", "join_words", "words_as_in_text"]
