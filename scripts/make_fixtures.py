"""Write the caches in tests/fixtures/: real embeddings of the sample images.

Heads and evaluation are tested on them, so that those tests need no backbone. Both devices that
every Linux machine has are there; `efficientnet_lite0` is the backbone whose weights are installed
with it.
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from extract.backends.backend import usable_engines  # noqa: E402
from extract.dataset import scan  # noqa: E402
from extract.devices import require_device  # noqa: E402
from extract.embedding_spec import EmbeddingSpec, load_backbone  # noqa: E402
from extract.pipeline import extract  # noqa: E402

FIXTURES = ROOT / "tests" / "fixtures" / "cache"


def main() -> None:
    """Extract the sample images again."""
    shutil.rmtree(FIXTURES, ignore_errors=True)
    images = [*scan(ROOT / "dataset").files, *scan(ROOT / "test_images").files]
    backbone = load_backbone("efficientnet_lite0", "imagenet")
    for device in ("cpu", "xla-cpu"):
        require_device(device)
        spec = EmbeddingSpec(backbone, device, usable_engines(device, None, "fp32"), "fp32")
        (made,) = extract([spec], images, FIXTURES)
        print(f"{made.computed} rows in {made.cache.folder.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
