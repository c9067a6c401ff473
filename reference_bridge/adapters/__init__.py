"""One adapter per reference: how to run it, and how to look inside it."""
