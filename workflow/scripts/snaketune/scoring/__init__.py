"""Scores of a model: the measures, how sure they are, and where the model fails."""
