"""Images that models are measured on, and what of them counts."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

from cache.errors import DatasetError
from evaluate.text import STUDYS_OWN
from extract.dataset import ImageSet
from extract.sources.class_names import between_sets
from heads.splits import Groups


@dataclass(frozen=True)
class TestSet:
    """A test set.

    Attributes:
        images: The images, as they were scanned.
        leaked: SHA-256 of those that are in training too; excluded from every score.
        repeats: The group of each near duplicate of another test image; a group counts as one in
            the accuracy's interval.
        name: Of an independent set; STUDYS_OWN for the study's own.
    """

    __test__: ClassVar[bool] = False  # no test of pytest's

    images: ImageSet
    leaked: Collection[bytes] = frozenset()
    repeats: Groups = field(default_factory=dict)
    name: str = STUDYS_OWN

    @property
    def is_own(self) -> bool:
        """Whether it is the study's own test set, not an independent one."""
        return self.name == STUDYS_OWN

    @property
    def counted(self) -> list[bytes]:
        """SHA-256 of the images that scores count."""
        return [key for key in self.images.labels if key not in self.leaked]

    def check(self) -> None:
        """Make sure that an image is left to test on. Raises DatasetError."""
        if all(file.sha256 in self.leaked for file in self.images.unique):
            raise DatasetError(
                f"{self.images.folder}: every image there is in training too: nothing to test on"
            )


def check_classes(classes: Collection[str], test: ImageSet) -> None:
    """Make sure that a model of these classes can classify the test images.

    Raises:
        DatasetError: there is a class that training does not have, or no image with one label.
    """
    if unknown := sorted({file.label for file in test.files} - set(classes)):
        raise DatasetError(
            f"{test.folder} has the class(es) {', '.join(unknown)}, which training has not "
            f"({', '.join(sorted(classes))}): rename or remove the folder, or give another --test",
            *between_sets(classes, unknown),
        )
    if not test.unique:
        raise DatasetError(f"{test.folder}: every image there lies in two classes: keep it in one")
