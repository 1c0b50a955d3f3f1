"""Tools of a build: small programs that a plan writes into its work folder and runs there.

As the probes, they run on the other side: in the syntax of Python 3.8, with the standard library alone, each a file by itself,
so that a plan written as a shell script needs nothing of envbuilder. Each says in one line why it refuses, and exits with 1.
"""
