"""Folders and files: reading, watching, and delivering whole files."""
