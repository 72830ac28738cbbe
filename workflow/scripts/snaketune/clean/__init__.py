"""What is mended in a text, what is reported of it, and by which rules a row goes."""
