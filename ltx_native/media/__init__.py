"""Files in and out: images, videos and sound, as NumPy arrays. Nothing here needs MLX."""

from ltx_native.media.audio import Audio, read_audio, resample, to_stereo
from ltx_native.media.image import load_image, read_image, recompress
from ltx_native.media.mel import log_mel
from ltx_native.media.pixels import normalize, resize_and_center_crop, to_uint8
from ltx_native.media.video import VideoMetadata, load_video, read_frames, video_metadata
from ltx_native.media.write import VideoWriter, write_video

__all__ = [
    "Audio",
    "VideoMetadata",
    "VideoWriter",
    "load_image",
    "load_video",
    "log_mel",
    "normalize",
    "read_audio",
    "read_frames",
    "read_image",
    "recompress",
    "resample",
    "resize_and_center_crop",
    "to_stereo",
    "to_uint8",
    "video_metadata",
    "write_video",
]
