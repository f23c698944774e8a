"""Studies: one folder per table of the papers, each with its question, program, settings and results."""
