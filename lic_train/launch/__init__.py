"""Everything above one run: the runs of a sweep, where they are trained, and what became of them."""
