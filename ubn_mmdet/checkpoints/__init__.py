"""Checkpoints: key layouts, exact mappings between them, files."""
