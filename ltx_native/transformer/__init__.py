"""The audio-video diffusion transformer of LTX-2.3."""
