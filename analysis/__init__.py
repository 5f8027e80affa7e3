"""Figures, tables and reports made only from a study's files. Start at `analysis.load`; format: results/README.md."""
