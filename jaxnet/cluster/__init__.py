"""The processes of a job: launcher detection, rendezvous, watchdog, supervisor.

The package is independent of models and training.
"""
