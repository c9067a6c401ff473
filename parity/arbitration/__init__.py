"""Three sides on one request and weights: native, the external CLI, the official code. Who departs, and where it begins."""
