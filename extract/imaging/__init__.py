"""Bytes of an image file → gray pixels: formats, decoding, bit depth, augmentation, statistics."""
