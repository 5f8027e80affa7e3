"""Moved to wavedp.reports.reconstruction."""

from wavedp.moved import run_moved

if __name__ == "__main__":
    run_moved("wavedp.tokenizers.report", "wavedp.reports.reconstruction")
