"""Families of rows and how they are dealt; sorting on disk."""
