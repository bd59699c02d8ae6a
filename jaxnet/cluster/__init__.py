"""The processes of one job: detection of launchers, rendezvous, watchdog, supervisor.

It knows no network.
"""
