"""Moved to wavedp.reports.super_resolution."""

from wavedp.moved import run_moved

if __name__ == "__main__":
    run_moved("wavedp.upscalers.report", "wavedp.reports.super_resolution")
