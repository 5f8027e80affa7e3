"""Moved to wavedp.reports.forward."""

from wavedp.moved import run_moved

if __name__ == "__main__":
    run_moved("wavedp.diffusion.forward", "wavedp.reports.forward")
