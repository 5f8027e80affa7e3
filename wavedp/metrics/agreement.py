"""Moved to wavedp.reports.agreement."""

from wavedp.moved import run_moved

if __name__ == "__main__":
    run_moved("wavedp.metrics.agreement", "wavedp.reports.agreement")
