"""Entrypoints: `python -m train.NAME`."""

from jaxnet import ending

# Before the entrypoint imports anything. To import one from Python changes no handler.
if ending.started_as("train"):
    ending.start()
