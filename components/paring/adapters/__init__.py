"""Adapters: a Step becomes a command, a TFX component or a KFP component."""
