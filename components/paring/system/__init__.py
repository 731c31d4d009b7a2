"""Logging, tracing, interrupts, hardware and packages."""
