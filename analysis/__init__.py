"""analysis: reads the files of a study and nothing else. Start at `analysis.load`; format: results/README.md."""
