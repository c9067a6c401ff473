"""The audio VAE of LTX-2.3 and its vocoder: waveform <-> mel spectrogram <-> latents (25 a second, 16 bins of 8 channels)."""

from ltx_native.audio_vae.decoder import AudioDecoder
from ltx_native.audio_vae.encoder import AudioEncoder
from ltx_native.audio_vae.vocoder import VocoderWithBWE

__all__ = ["AudioDecoder", "AudioEncoder", "VocoderWithBWE"]
