"""The language model as training and scoring share it."""
