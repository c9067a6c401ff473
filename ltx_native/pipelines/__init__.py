"""Generation, mode by mode, as generators of named stages."""
