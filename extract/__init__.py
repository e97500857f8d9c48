"""Image file → gray tensor → embedding: images, backbones, devices, engines, the extraction run."""
