"""Entrypoints: `python -m train.NAME`."""
