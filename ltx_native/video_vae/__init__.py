"""The video VAE of LTX-2.3 (8x in time, 32x in height and width, 128 channels)."""

from ltx_native.video_vae.decoder import VideoDecoder
from ltx_native.video_vae.encoder import VideoEncoder

__all__ = ["VideoDecoder", "VideoEncoder"]
