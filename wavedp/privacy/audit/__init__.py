"""Moved to wavedp.audit."""
