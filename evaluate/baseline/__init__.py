"""Whole networks trained in the ordinary way: what freezing is measured against."""
