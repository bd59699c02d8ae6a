"""Everyday jobs around training, each written with jaxnet, Keras and Lightning.

A job is a function of the same name in the three modules. What it takes is counted by
`benchmarks.same_job.count`, for the table in the guide.
"""
