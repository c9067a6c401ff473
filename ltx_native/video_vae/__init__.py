"""The video VAE of LTX-2.3 (8x in time, 32x in height and width, 128 channels)."""

from ltx_native.video_vae.decoder import VideoDecoder
from ltx_native.video_vae.encoder import VideoEncoder
from ltx_native.video_vae.streamed import streamed_decode
from ltx_native.video_vae.tiled import tiled_decode, tiled_encode
from ltx_native.video_vae.tiling import SpatialTilingConfig, TemporalTilingConfig, TilingConfig

__all__ = [
    "SpatialTilingConfig",
    "TemporalTilingConfig",
    "TilingConfig",
    "VideoDecoder",
    "VideoEncoder",
    "streamed_decode",
    "tiled_decode",
    "tiled_encode",
]
