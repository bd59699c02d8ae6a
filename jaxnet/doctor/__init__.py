"""`python -m jaxnet doctor`: is this machine ready to train, and what to do where it isn't.

What is so is gathered in `facts`, and judged in `checks` by pure functions, so that a machine which
nobody has at hand can be tried out: `checks.names(facts.Names("node1", ("127.0.1.1",)), cluster)`.
"""
