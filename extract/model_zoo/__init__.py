"""Backbones beyond the table: those of torchvision and timm by name, and our own network."""
