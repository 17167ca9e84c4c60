"""Shapes: one protocol a file, header-only, no state."""
