"""The zoo: networks that people really use, each pruned at random and compared, by dither and by Torch-Pruning.

Run: ``make test-zoo``, or ``python -m zoo --help``. The page that it writes is ``docs/zoo.md``.
"""
