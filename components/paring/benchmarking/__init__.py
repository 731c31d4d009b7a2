"""Latency and memory measurements in processes of their own."""
