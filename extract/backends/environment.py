"""What this machine has, what is missing, and how to get it."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from cache.errors import WeightsError, WeightsUnavailableError
from extract.backbones import BACKBONES
from extract.backends.backend import ENGINES
from extract.devices import DEVICES
from extract.weights import imagenet_file, way_out


@dataclass(frozen=True)
class Finding:
    """What is known of one device, engine, backbone's weights or family of backbones.

    Attributes:
        kind: `device`, `engine`, `weights` or `family`.
        name: Which one.
        present: Whether it can be used.
        note: Its version or file, or how to get it.
    """

    kind: str
    name: str
    present: bool
    note: str


def examine() -> Iterator[Finding]:
    """Look at every device, engine, backbone's weights and family of further backbones, without
    downloading anything.
    """
    for name, device in DEVICES.items():
        missing = device.missing()
        note = missing or f"engines: {', '.join(device.engines)}"
        if missing is None and not device.real:
            note += "; only used when asked for with --device"
        yield Finding("device", name, missing is None, note)
    for name, engine in ENGINES.items():
        try:
            yield Finding("engine", name, True, f"{engine.package} {version(engine.package)}")
        except PackageNotFoundError:
            note = f"{engine.package} is not installed: pip install -r requirements.lock"
            yield Finding("engine", name, False, note)
    for name in BACKBONES:
        try:
            yield Finding("weights", name, True, str(imagenet_file(name, download=False)))
        except WeightsUnavailableError as error:
            yield Finding("weights", name, False, f"{error}. {way_out(name)}")
        except WeightsError as error:
            yield Finding("weights", name, False, str(error))
    for family, package in (("tv", "torchvision"), ("timm", "timm")):
        try:
            note = f"any classification model of {package} {version(package)} for 224 x 224 RGB"
            yield Finding("family", f"{family}:NAME", True, note)
        except PackageNotFoundError:
            note = f"{package} is not installed: pip install {package}"
            yield Finding("family", f"{family}:NAME", False, note)
