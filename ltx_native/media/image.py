"""Anchor images: read, made to look like a frame of a compressed video, brought to size."""

from __future__ import annotations

from io import BytesIO
from os import PathLike

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from ltx_native.errors import UserError
from ltx_native.media.pixels import Float, UInt8, normalize, resize_and_center_crop

DEFAULT_IMAGE_CRF = 33


def load_image(path: str | PathLike[str], height: int, width: int, crf: int = DEFAULT_IMAGE_CRF) -> Float:
    """An image as the encoder wants it: (1, 1, height, width, 3) float32 in [-1, 1].

    Raises UserError when the file is missing, is no image, or `crf` is not 0 to 51.
    """
    image = recompress(read_image(path), crf)
    return normalize(resize_and_center_crop(image[None], height, width))[None]


def read_image(path: str | PathLike[str]) -> UInt8:
    """(H, W, 3) RGB, alpha dropped. Raises UserError."""
    try:
        with Image.open(path) as image:
            pixels = np.array(image if image.mode in ("RGB", "RGBA") else image.convert("RGB"))
    except FileNotFoundError as error:
        raise _unreadable(path, "no such file") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error
    return np.ascontiguousarray(pixels[..., :3])


def recompress(image: UInt8, crf: int) -> UInt8:
    """One H.264 pass at quality `crf` (0 leaves the image alone), cut to an even size: (H, W, 3) in and out."""
    if not 0 <= crf <= 51:
        raise UserError("The image quality is out of range", "crf", crf, "0 (untouched) to 51 (worst)", "Use 33")
    if crf == 0:
        return image
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    if height == 0 or width == 0:
        raise UserError("The image is too small", "image", image.shape[:2], "2 x 2 pixels or more", "Use a larger image")
    with BytesIO() as file:
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
            stream.height, stream.width = height, width
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
            container.mux(stream.encode())
        file.seek(0)
        with av.open(file) as container:
            decoded: UInt8 = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return decoded


def _unreadable(path: str | PathLike[str], found: str) -> UserError:
    return UserError(
        "The image cannot be read", str(path), found, "a picture (PNG, JPEG, WebP …)", "Check the path and the file"
    )
