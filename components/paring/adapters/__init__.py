"""Adapters that turn a Step into a command, a TFX component or a KFP component."""
