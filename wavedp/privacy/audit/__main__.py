"""Moved to wavedp.audit."""

from wavedp.moved import run_moved

if __name__ == "__main__":
    run_moved("wavedp.privacy.audit", "wavedp.audit")
