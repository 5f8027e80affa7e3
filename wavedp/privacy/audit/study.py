"""Moved to wavedp.audit.study."""

from wavedp.moved import run_moved

if __name__ == "__main__":
    run_moved("wavedp.privacy.audit.study", "wavedp.audit.study")
