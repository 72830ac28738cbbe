"""Further train rows: noise, synonyms, models that rewrite."""
