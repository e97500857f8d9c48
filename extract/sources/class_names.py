# ruff: noqa: RUF001 - look-alike characters are the subject here
"""Names of classes: one spelling for each, and an error where two names look like one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache

from cache.errors import DatasetError

NAMED = 5  # pairs in an error
# Names of parts of a data set, which are no classes.
PARTS = frozenset(
    {"train", "training", "test", "testing", "val", "valid", "validate", "validation", "dev"}
)
# Characters without a picture that Unicode does not count as blanks: Hangul fillers, Braille blank.
BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")

# Characters that look like others, from confusables.txt of Unicode Technical Standard #39
# (https://www.unicode.org/reports/tr39/): letters that keyboards of several alphabets mix.
_LETTERS = {
    "АВЕЅІЈКМНОРСТУХԚԜҮҺԌ": "ABESIJKMHOPCTYXQWYHG",  # Cyrillic
    "аеѕіјорсухԛԝһԁѡү": "aesijopcyxqwhdwy",
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ": "ABEZHIKMNOPTYX",  # Greek
    "αγικνορσυχ": "ayikvopoux",
    "ıȷɑɡɩ×ǃ": "ijagix!",
}
_PUNCTUATION = {
    "‐‑‒–—―−﹣－˗": "-" * 10,
    "’‘ʼ′`´ʻ‛": "'" * 8,
    "“”„‟″": '"' * 5,
    "⁄∕": "//",
    "٪․‚∶": "%.,:",
}
_DIGITS = str.maketrans("01", "ol")
_VARIATIONS = range(0xFE00, 0xFE10)  # selectors of the form of the character before them


def _table(rows: dict[str, str]) -> dict[int, str]:
    return {
        ord(odd): usual
        for some, usuals in rows.items()
        for odd, usual in zip(some, usuals, strict=True)
    }


LETTERS, PUNCTUATION = _table(_LETTERS), _table(_PUNCTUATION)


@lru_cache(maxsize=10_000)
def class_name(name: str) -> str:
    """Return the name of a class in one form: NFC, without blanks or invisible ends.

    macOS decomposes accents, others do not; cells of spreadsheets end in blanks.
    """
    name = unicodedata.normalize("NFC", name)
    start, end = 0, len(name)
    while start < end and _is_blank(name[start]):
        start += 1
    while start < end and _is_blank(name[end - 1]):
        end -= 1
    return name[start:end]


def look_alikes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of names that people read as one: they differ only by case, blanks or
    characters that look alike.
    """
    pairs = dict[tuple[str, str], None]()
    ordered = sorted(names)
    for skeleton in (_folded, _letters, _skeleton):
        first = dict[str, str]()
        for name in ordered:
            if (other := first.setdefault(skeleton(name), name)) != name:
                pairs[other, name] = None
    return list(pairs)


def check_class_names(
    source: object, names: Collection[str], images_of: Callable[[str], tuple[int, str]]
) -> None:
    """Make sure that these names can be the classes of one set of images.

    Args:
        source: The set, for the message.
        names: The classes.
        images_of: Returns how many images a class has, and where the first one is.

    Raises:
        DatasetError: one is blank; two look alike; or they are parts of a data set, such as train
            and test.
    """
    if "" in names:
        raise DatasetError(f"{source}: a class has no name, {images_of('')[1]}. Give it one.")
    parts = sorted(name for name in names if name.casefold() in PARTS)
    if parts and (len(parts) == len(names) or len(parts) > 1):
        advice = (
            "The column label must hold the class."
            if str(source).lower().endswith(".csv")
            else f"Give the folder of each part: --dataset {source}/{_training(parts)} --test "
            f"{source}/{_testing(parts)}"
        )
        raise DatasetError(
            f"{source}: the classes are called {' and '.join(parts[:NAMED])}, as parts of a data "
            f"set are. {advice}"
        )
    if pairs := look_alikes(names):
        shown = "; ".join(_pair(*pair, images_of) for pair in pairs[:NAMED])
        more = f"; and {len(pairs) - NAMED} more pair(s)" if len(pairs) > NAMED else ""
        raise DatasetError(
            f"{source}: names of classes are almost the same: {shown}{more}. Give one name to one "
            "class, or names that differ more."
        )


def between_sets(training: Iterable[str], testing: Iterable[str]) -> list[str]:
    """Say which classes of a test set are probably classes of the training set under another
    spelling.
    """
    training, testing = set(training), set(testing)
    return [
        f"{sorted({a, b} - training)[0]!r} is probably the class {sorted({a, b} & training)[0]!r} "
        f"of the training images: they differ only by {_difference(a, b)}. Give them one name."
        for a, b in look_alikes(training | testing)
        if len({a, b} & training) == 1
    ][:NAMED]


def _training(parts: Collection[str]) -> str:
    return next((name for name in parts if name.casefold().startswith("train")), "train")


def _testing(parts: Collection[str]) -> str:
    others = [name for name in parts if not name.casefold().startswith("train")]
    return next((n for n in others if n.casefold().startswith("test")), (*others, "test")[0])


def _pair(a: str, b: str, images_of: Callable[[str], tuple[int, str]]) -> str:
    (many, _), (few, _) = images_of(a), images_of(b)
    if many < few:
        a, b, many, few = b, a, few, many
    return (
        f"{a!r} ({many:,} image(s)) and {b!r} ({few:,} image(s), first: {images_of(b)[1]}) differ "
        f"only by {_difference(a, b)}"
    )


def _difference(a: str, b: str) -> str:
    if a.casefold() == b.casefold():
        return "upper and lower case"
    if _folded(a) == _folded(b):
        return "blanks, hyphens or case"
    odd = sorted({*a} ^ {*b}, key=lambda c: (c.isascii(), c))[0]
    return f"characters that look alike (U+{ord(odd):04X} {unicodedata.name(odd, 'unnamed')})"


def _folded(name: str) -> str:
    """Return a name without case, invisible characters, blanks, hyphens and underscores.

    Between digits they stay, and so does a sign: 1-2 is not 12, and -1 is not 1.
    """
    name = unicodedata.normalize("NFKC", name.translate(PUNCTUATION))
    visible = (c for c in name if unicodedata.category(c) != "Cf" and ord(c) not in _VARIATIONS)
    name = "".join(" " if c == "_" or _is_blank(c) else c for c in visible)
    name = unicodedata.normalize("NFC", name.casefold().replace("i\u0307", "i"))
    name = re.sub(" +", " ", name)
    name = re.sub(r"(?<=\w)(?:-| - )(?=\w)", lambda found: _between(found, "-"), name)
    return re.sub(" ", lambda found: _between(found, " "), name)


def _between(found: re.Match[str], separator: str) -> str:
    """Return a separator that digits are on both sides of, "" for others."""
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return separator if before.isdigit() and after.isdigit() else ""


def _skeleton(name: str) -> str:
    """Return a name with usual letters in place of those that look like them, folded."""
    name = name.translate(LETTERS)
    return _folded(name.replace("I", "l")).translate(_DIGITS) if len(name) > 1 else _folded(name)


def _letters(name: str) -> str:
    """Return a name with Latin letters in place of others that look like them, folded."""
    return _folded(name.translate(LETTERS))


def _is_blank(character: str) -> bool:
    """Return whether a character shows nothing: a blank, a control or format character."""
    return unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf") or (
        character in BLANKS
    )
