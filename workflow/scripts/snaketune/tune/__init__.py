"""A search for the best configuration: its space, what is tried next, and when a trial is given up."""
