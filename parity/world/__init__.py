"""A small world in which prompts mean something."""
