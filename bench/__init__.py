"""Questions with numbers for answers: one file each, ``python -m bench`` asks them all."""
