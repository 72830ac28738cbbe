"""Raw files to typed rows: readers, one a format, and what makes rows of what they read."""
