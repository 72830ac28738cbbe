"""The search for duplicates: signatures, candidates, verification, components."""
