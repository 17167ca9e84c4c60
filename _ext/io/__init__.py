"""Edges: bytes to batches and back; formats, no protocols."""
