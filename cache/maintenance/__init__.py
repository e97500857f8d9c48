"""Compact, verify and copy caches: the work behind `cli.py cache`."""
