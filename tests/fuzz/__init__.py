"""Damaged files and unforeseen orders of calls: thousands of them, each one made again from its number.

A few hundred run with the other tests. The long runs are commands::

    python -m tests.fuzz.files --number 10000      # files that are not as they were written
    python -m tests.fuzz.calls --number 2000       # the public functions in any order
"""
