"""Types of options that click doesn't have."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import click

from extract.imaging.preprocessing import AUTO
from extract.model_zoo.families import FAMILIES
from extract.sources.image_file import to_path


class Place(click.ParamType[Path]):
    """A path of this machine, or a URL that fsspec knows."""

    name = "dir|url"

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: Any) -> Path:
        """See the class."""
        return to_path(value) if isinstance(value, str) else value


class Architecture(click.Choice[str]):
    """A backbone of the table, or one of a family by its own name: tv:NAME, timm:NAME."""

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: Any) -> str:
        """See the class. Whether the family has it is found out where it is used."""
        family, colon, name = str(value).partition(":")
        if colon and name and family in FAMILIES:
            return str(value)
        return super().convert(value, parameter, ctx)


class Finite(click.FloatRange):
    """A number in a range; click lets `nan` through."""

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: Any) -> float:
        """See the class."""
        number = float(super().convert(value, parameter, ctx))
        if not isfinite(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", parameter, ctx)
        return number


class FullScale(click.IntRange):
    """A number of 1 to 65535, or `auto`."""

    name = "full scale"

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: Any) -> Any:
        """See the class."""
        return value if value == AUTO else super().convert(value, parameter, ctx)
