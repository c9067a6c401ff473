"""Run both sides and record what happened: the only rooms of the harness that touch MLX and the engines."""
