"""Latency, throughput, memory and size of a whole model."""
