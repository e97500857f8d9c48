"""What the name of a file says: an image, a format that is not read, or made by a system.

- `MACHINE_MADE` is the one table of names that no user gives: folders, archives, URLs, lists,
  shards and `predict FOLDER` go by it.
- `ListingNotes` counts what a listing leaves out, and says it in a line for each reason.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from itertools import islice
from unicodedata import normalize

from extract.sources.class_names import class_name
from extract.sources.image_file import SUFFIXES, is_url

NAMED = 5  # names, suffixes or folders in a remark
COUNTED = 10_000  # files that are counted in one machine-made folder
HIDDEN = "hidden"
LISTED_PARTS = 3  # of an absolute path in a list: @eaDir/x.png/thumbnail.jpg
COUNTERS = ("machine_made", "unsupported", "others", "nested", "unlisted", "stripped")
CONVERT = "Convert them to TIFF or PNG."

# Names of folders and files, in lower case with * and ?: who makes them.
MACHINE_MADE = {
    "@eadir": "Synology",
    "*@synoeastream": "Synology",
    "*@synoresource": "Synology",
    "@tmp": "Synology",
    "@sharebin": "Synology",
    "#recycle": "Synology",
    "#snapshot": "Synology",
    "@recycle": "QNAP",
    "@recently-snapshot": "QNAP",
    ".@*": "QNAP",
    "@__thumb": "QNAP",
    "~snapshot": "NetApp",
    ".snapshot": "NetApp",
    ".zfs": "ZFS",
    "lost+found": "Linux",
    ".trash*": "trash",
    ".nfs*": "NFS",
    "__macosx": "macOS",
    "._*": "macOS",
    ".ds_store": "macOS",
    ".appledouble": "macOS",
    ".appledb": "macOS",
    ".appledesktop": "macOS",
    ".spotlight-v100": "macOS",
    ".fseventsd": "macOS",
    ".temporaryitems": "macOS",
    ".documentrevisions-v100": "macOS",
    "network trash folder": "macOS",
    "temporary items": "macOS",
    "thevolumesettingsfolder": "macOS",
    "icon\r": "macOS",
    "$recycle.bin": "Windows",
    "recycler": "Windows",
    "system volume information": "Windows",
    "found.[0-9][0-9][0-9]": "Windows",
    "thumbs.db": "Windows",
    "ehthumbs*.db": "Windows",
    "desktop.ini": "Windows",
    "~$*": "Office",
    "_vti_cnf": "FrontPage",
    ".ipynb_checkpoints": "Jupyter",
    "__pycache__": "Python",
    ".thumb*": "thumbnails",
    "_thumbs": "thumbnails",
    "zbthumbnail.info": "thumbnails",
    ".xvpics": "thumbnails",
    ".picasa*": "Picasa",
    "picasa.ini": "Picasa",
    ".bridgecache*": "Adobe Bridge",
    ".dtrash": "digiKam",
    ".stversions": "Syncthing",
    ".stfolder": "Syncthing",
    ".git": "git",
    ".svn": "Subversion",
}

_PATTERNS = [name for name in MACHINE_MADE if {*name} & {*"*?["}]
_PATTERN = re.compile("|".join(f"({translate(pattern)})" for pattern in _PATTERNS))

# Suffixes of images that are not read. What such a file holds is not guessed: a .gel of a Typhoon
# or Storm imager is a TIFF whose values are square roots (tag 33445 is 2).
UNSUPPORTED = (
    *(".gel", ".scn", ".1sc", ".ds", ".mscn", ".img", ".inf", ".raw", ".flm", ".lsm", ".stk"),
    *(".dcm", ".dicom", ".ima", ".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".mrc", ".mrcs"),
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jxr", ".wdp", ".jpx", ".jpm", ".jpc", ".j2c"),
    *(".czi", ".nd2", ".lif", ".oib", ".oif", ".oir", ".vsi", ".ims", ".zvi", ".ipl", ".dv"),
    *(".svs", ".ndpi", ".mrxs", ".vms", ".bif", ".qptiff", ".btf", ".tf2", ".tf8", ".zarr"),
    *(".cr2", ".cr3", ".crw", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    *(".psd", ".psb", ".xcf", ".kra", ".svg", ".ai", ".eps", ".ps", ".pdf", ".emf", ".wmf"),
    *(".ico", ".icns", ".tga", ".pcx", ".sgi", ".rgb", ".xbm", ".xpm", ".exr", ".hdr", ".pfm"),
    *(".apng", ".mng", ".fits", ".fit", ".fts", ".spe", ".spm", ".sdt", ".npy", ".mpo", ".pam"),
    *(f"{suffix}{packed}" for suffix in SUFFIXES for packed in (".gz", ".bz2", ".xz", ".zst")),
)


def is_image(name: str) -> bool:
    """Return whether a file is an image that can be read, by its name."""
    return name.lower().endswith(SUFFIXES)


def why_no_image(name: str) -> str:
    """Say why a file is no image by its name, and what to do; "" if it is one."""
    if is_image(name):
        return ""
    if suffix := unsupported_suffix(name):
        return f"{suffix} is not a supported image format. Convert it to TIFF or PNG."
    return "is not an image by its name. Supported: " + " ".join(SUFFIXES)


def unsupported_suffix(name: str) -> str:
    """Return the suffix of an image format that is not read; "" if it has none."""
    name = name.lower()
    return max((suffix for suffix in UNSUPPORTED if name.endswith(suffix)), key=len, default="")


def machine_made(name: str, hidden: bool = True) -> str | None:
    """Return who makes files or folders of this name, such as `@eaDir (Synology)`; None: a user.

    Args:
        name: Of the file or folder.
        hidden: Include all names that begin with a dot, even if their maker is not known.
    """
    lower = name.lower()
    if lower in MACHINE_MADE:
        return f"{name.strip()} ({MACHINE_MADE[lower]})"
    if found := _PATTERN.match(lower):
        pattern = _PATTERNS[(found.lastindex or 1) - 1]
        return f"{pattern} ({MACHINE_MADE[pattern]})"
    return HIDDEN if hidden and name.startswith(".") and name not in (".", "..") else None


def maker_among(parts: Iterable[str], hidden: bool = True) -> str | None:
    """Return what `machine_made` says of the first of these parts of a path that it knows."""
    return next((maker for part in parts if (maker := machine_made(part, hidden))), None)


@dataclass
class ListingNotes:
    """What a listing of images leaves out, changes or includes unasked, counted by reason.

    Attributes:
        machine_made: Files by who made them, as `machine_made` says it.
        unsupported: Images of formats that are not read, by suffix.
        others: Files that are no images, by suffix.
        unclassed: Images in no class folder.
        nested: Images in subfolders of class folders, by subfolder.
        unlisted: Folders that can't be listed, with the reason.
        stripped: Images by a name of a class that has blanks around it.
        examples: A path for some of these, by name.
    """

    machine_made: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    unclassed: int = 0
    nested: Counter[str] = field(default_factory=Counter)
    unlisted: Counter[str] = field(default_factory=Counter)
    stripped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def takes(self, path: str, parts: Sequence[str], class_folders: bool = True) -> bool:
        """Return whether a file is an image of a class; else count it.

        Args:
            path: Of the file.
            parts: Of its path below the source.
            class_folders: The first part names the class.
        """
        if maker := maker_among(parts):
            self.machine_made[maker] += 1
            return False
        if not self.takes_name(path):
            return False
        if class_folders and len(parts) == 1:
            self.unclassed += 1
            self.examples.setdefault("unclassed", path)
            return False
        if class_folders and len(parts) > 2:
            self.nested["/".join(parts[:2])] += 1
        return True

    def takes_listed(self, path: str, given: str) -> bool:
        """Return whether a list names an image; else count it.

        Args:
            given: The path as listed.
        """
        parts = given.replace("\\", "/").split("/")
        if not parts[0] or is_url(given):  # what is far above the image is not part of a data set
            parts = parts[-LISTED_PARTS:]
        if maker := maker_among(parts, hidden=False):
            self.machine_made[maker] += 1
            return False
        return self.takes_name(path)

    def takes_name(self, path: str) -> bool:
        """Return whether a file is an image, by its name; else count it."""
        if is_image(path):
            return True
        if suffix := unsupported_suffix(path):
            self.unsupported[suffix] += 1
        else:
            self.others[os.path.splitext(path)[1].lower() or "without suffix"] += 1  # noqa: PTH122
            self.examples.setdefault("others", path)
        return False

    def pass_over(self, folder: str, maker: str) -> None:
        """Count the files in a machine-made folder, up to a limit; none of them is opened."""
        files = (name for _, _, names in os.walk(folder) for name in names)
        self.machine_made[maker] += sum(1 for _ in islice(files, COUNTED))

    def class_of(self, raw: str) -> str:
        """Return the class that a name means, once for each image."""
        name = class_name(raw)
        if name != normalize("NFC", raw):
            self.stripped[raw] += 1
        return name

    def add(self, other: ListingNotes) -> None:
        """Take the counts of another part of the same source."""
        for name in COUNTERS:
            getattr(self, name).update(getattr(other, name))
        self.unclassed += other.unclassed
        self.examples = {**other.examples, **self.examples}

    def remarks(self, source: object) -> list[str]:
        """Say it in a line for each reason; empty if nothing is left out."""
        lines = []
        if self.machine_made:
            lines.append(
                f"{source}: {self.machine_made.total():,} file(s) ignored because they are hidden "
                f"or made by a system: {_counts(self.machine_made)}"
            )
        if self.unsupported:
            lines.append(
                f"{source}: {self.unsupported.total():,} file(s) skipped: "
                f"{_counts(self.unsupported)} are not supported image formats. {CONVERT}"
            )
        if self.others:
            lines.append(
                f"{source}: {self.others.total():,} file(s) ignored because they are not images: "
                f"{_counts(self.others)}, such as {self.examples['others']}"
            )
        if self.unclassed:
            lines.append(
                f"{source}: {self.unclassed:,} image(s) ignored because they are in no class "
                f"folder, such as {self.examples['unclassed']}"
            )
        if self.nested:
            lines.append(
                f"{source}: {self.nested.total():,} image(s) are in subfolders of class folders "
                f"and are included: {_counts(self.nested, 'in ')}"
            )
        if self.unlisted:
            lines.append(
                f"{source}: {len(self.unlisted):,} folder(s) cannot be listed and are left out: "
                + ", ".join(islice(self.unlisted, NAMED))
            )
        if self.stripped:
            names = ", ".join(repr(name) for name in islice(self.stripped, NAMED))
            lines.append(
                f"{source}: {self.stripped.total():,} image(s) have a class with blanks around its "
                f"name ({names}); the blanks are removed"
            )
        return lines


def _counts(counts: Counter[str], before: str = "") -> str:
    """Show the most frequent names with their counts."""
    shown = [f"{count:,} {before}{name}" for name, count in counts.most_common(NAMED)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
