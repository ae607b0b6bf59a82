"""The store and its double side by side: the same operations on both, and a look at everything after each."""
