"""Moved to wavedp.reports.reverse."""

from wavedp.moved import run_moved

if __name__ == "__main__":
    run_moved("wavedp.diffusion.reverse", "wavedp.reports.reverse")
