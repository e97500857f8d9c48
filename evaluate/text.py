"""Words and characters that people see, without pandas.

Names are bytes and may hold anything, but a line on the terminal is one line.

- Control characters would set the terminal's title, colours or position, or forge further lines.
- Bidirectional and zero-width characters would make one name look like another.
"""

from unicodedata import category

from heads.config import FROZEN

# Control, format (bidirectional, zero-width), line and paragraph separators.
HIDDEN = {"Cc", "Cf", "Zl", "Zp"}


def printable(text: str) -> str:
    r"""Show one line of text: what is invisible or moves the cursor as an escape such as `\x1b`.

    Bytes of a file name that are no valid Unicode become question marks.
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, valid(text)))


def valid(text: str) -> str:
    """Return text for programs: what is no valid Unicode as question marks, all else as it is."""
    return text.encode("utf-8", "replace").decode()


def _shown(character: str) -> str:
    if character.isprintable() or category(character) not in HIDDEN:
        return character
    return character.encode("unicode_escape").decode()


STUDYS_OWN = "-"  # `also` of a row on the study's own test set


TRAINED = "trained"  # what weights are called that were trained here, together with a head


REHASH = "rehash"  # of a command's context: whether it has that option


NOT_TRAINED = (FROZEN, "transfer")  # modes in which the backbone keeps the weights it began with
