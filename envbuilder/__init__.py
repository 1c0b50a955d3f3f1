"""envbuilder: build machine-learning environments on supercomputers, and prove what they really run."""

__version__ = "0.1.0"
