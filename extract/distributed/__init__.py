"""Extraction by several processes: one per local device, or Ray tasks."""
