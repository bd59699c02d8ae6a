"""One small file per contender; each offers `setup(workload, data, options) -> Contestant`."""
