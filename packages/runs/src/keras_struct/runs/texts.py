"""Text as files, pipes and other programs give it: encodings, byte-order marks, broken bytes."""

import codecs
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from typing import Any

# The longer one first: the mark of UTF-16 begins that of UTF-32. Both codecs then take it away.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
BROKEN = "keras_struct.broken"
BROKEN_BYTE = 0xDC00  # and the byte: a code point that no text has
_SURROGATE = re.compile("[\ud800-\udfff]")


def _kept(error: Any) -> tuple[str, int]:
    wrong = error.object[error.start : error.end]
    return "".join(chr(BROKEN_BYTE + byte) for byte in wrong), error.end


codecs.register_error(BROKEN, _kept)


@contextlib.contextmanager
def open_text(path: Any, encoding: str | None = None) -> Iterator[Any]:
    r"""A text file, or standard input for `-`, to be read by lines with their ends as they are.

    Bytes that are no text in its encoding are read as lone surrogates, which `check_text` finds, so
    that one such byte costs what it stands in and not the whole file.

    Args:
        path: Path, `-`, or an open binary stream with `peek`, which stays open.
        encoding: Its encoding; None for that of its byte-order mark, or else UTF-8. The mark itself
            is not read. UTF-16 and UTF-32 without a mark are little-endian.

    Raises:
        ValueError: If there is no such encoding.
        UnicodeError: While it is read, if its codec cannot go on after what is no text.
        OSError: If the file cannot be read.

    Example:

    >>> import os, tempfile
    >>> from keras_struct.runs import open_text
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.txt")
    ...     with open(path, "wb") as stream:
    ...         size = stream.write("a\r\nb".encode("utf-16"))
    ...     with open_text(path) as lines:
    ...         print(list(lines))
    ['a\r\n', 'b']
    """
    if encoding is not None:
        try:
            "".encode(encoding)  # a codec, and one of text
        except LookupError:
            raise ValueError(f"Expected an encoding. Received: encoding={encoding!r}") from None
    with contextlib.ExitStack() as own:
        if str(path) == "-":
            stream = getattr(sys.stdin, "buffer", None)
            if stream is None:  # replaced by a stream of text
                yield sys.stdin
                return
        elif hasattr(path, "peek"):
            stream = path
        else:
            stream = own.enter_context(open(path, "rb"))
        start = stream.peek(4)
        marked = next((name for mark, name in MARKS if start.startswith(mark)), None)
        encoding = codecs.lookup(encoding or marked or "utf-8").name
        if encoding == "utf-8":
            encoding = "utf-8-sig"  # with or without a mark
        elif encoding in ("utf-16", "utf-32") and encoding != marked:
            encoding += "-le"
        lines = io.TextIOWrapper(stream, encoding=encoding, errors=BROKEN, newline="")
        try:
            yield lines
        except UnicodeError as error:
            raise UnicodeError(
                f"Expected text in the encoding {encoding}. Received: {path}: {error}"
            ) from None
        finally:
            lines.detach()  # standard input stays open, a file is closed by its own `with`


def check_text(text: str) -> None:
    """Raise an error if a text holds bytes that `open_text` could not read, or half a character.

    Raises:
        ValueError: The message says which byte, and what stands before it.

    Example:

    >>> from keras_struct.runs import check_text
    >>> check_text("caf\\udce9")
    Traceback (most recent call last):
    ...
    ValueError: Expected text in the encoding of the file. Received: byte 0xe9 after 'caf'
    """
    found = _SURROGATE.search(text)
    if found is not None:
        code, before = ord(found[0]), text[max(0, found.start() - 20) : found.start()]
        byte = code - BROKEN_BYTE
        what = f"byte {byte:#04x}" if 0 <= byte < 256 else f"half a character, {code:#x},"
        raise ValueError(
            f"Expected text in the encoding of the file. Received: {what} after {before!r}"
        )
