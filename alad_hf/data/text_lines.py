"""Lines of UTF-8 text files, with their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_OTHER_KINDS = (
    (b"\xff\xfe", "UTF-16", "convert it with `iconv -f utf-16 -t utf-8`"),
    (b"\xfe\xff", "UTF-16", "convert it with `iconv -f utf-16 -t utf-8`"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it with `gunzip`"),
)
"""Files that are no UTF-8, by their first bytes."""


def read_text(path: str | Path) -> str:
    r"""Read a UTF-8 file; a byte order mark is dropped and line ends become `\n`.

    Args:
        path: A text file.

    Returns:
        The text.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not UTF-8 or contains a NUL character.
    """
    content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line_number = content.count(b"\n", 0, error.start) + 1
        for beginning, kind, remedy in _OTHER_KINDS:
            if content.startswith(beginning):
                raise ValueError(f"{path} is {kind}, expected UTF-8 text: {remedy}.") from error
        raise ValueError(
            f"{path}, line {line_number}: byte 0x{content[error.start]:02x} is not valid UTF-8. "
            f"Convert the file, for example with `iconv -f latin1 -t utf-8` if it is Latin-1."
        ) from error
    # Not str.splitlines, which also breaks at characters that occur inside tokens, such as U+2028 or U+0085.
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    nul_offset = text.find("\0")
    if nul_offset >= 0:
        line_number = text.count("\n", 0, nul_offset) + 1
        raise ValueError(f"{path}, line {line_number}: found a NUL character, expected text. Is the file UTF-16?")
    return text


def check_characters(text: str) -> None:
    """Refuse half a surrogate pair, which JSON can write as an escape and no tokenizer or file can take.

    Raises:
        ValueError: There is one.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"found half of a surrogate pair, {ascii(text[error.start])}, at character {error.start} of a text, "
            "expected whole characters; drop it with text.encode('utf-8', 'ignore').decode()"
        ) from error


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield the 1-based number and the text of each line of a UTF-8 file.

    Args:
        path: A text file.

    Yields:
        Line number and line without its end.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not UTF-8 or contains a NUL character.
    """
    yield from enumerate(read_text(path).split("\n"), start=1)
