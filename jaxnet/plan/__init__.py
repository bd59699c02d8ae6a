"""`python -m jaxnet plan`: what a network would take on machines that aren't at hand.

The arithmetic is in `jaxnet.plan.cost`, and here is what it takes to ask for it by name: the
network (`networks`), the program that the compiler makes of a step on as many virtual devices
(`program`), and the tables (`command`).
"""
