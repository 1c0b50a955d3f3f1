"""A stand-in for @NAME@, of envbuilder's testbed: it has the name and the version, and computes nothing."""

__version__ = "@VERSION@"
