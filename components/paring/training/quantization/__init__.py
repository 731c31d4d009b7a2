"""Quantization-aware training and weight clustering."""
