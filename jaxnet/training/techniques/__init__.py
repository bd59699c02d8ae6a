"""Techniques: functions from task to task, which compose as Optax's transformations do."""
