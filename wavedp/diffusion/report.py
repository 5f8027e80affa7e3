"""Moved to wavedp.reports.samplers."""

from wavedp.moved import run_moved

if __name__ == "__main__":
    run_moved("wavedp.diffusion.report", "wavedp.reports.samplers")
