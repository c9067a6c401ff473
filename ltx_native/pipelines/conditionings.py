"""Images and clips that steer a video, read and encoded into conditioning items."""

from __future__ import annotations

import mlx.core as mx

from ltx_native.conditioning import (
    ConditioningItem,
    VideoConditionByKeyframeIndex,
    VideoConditionByLatentIndex,
    VideoTarget,
)
from ltx_native.patchify import SPACE_SCALE
from ltx_native.pipelines.stages import Run


def image_conditionings(run: Run, target: VideoTarget, replace_first: bool = True) -> list[ConditioningItem]:
    """The request's images at the size of ``target``.

    An image for frame 0 takes the first frame's place; others (all of them without ``replace_first``) are added as
    keyframe tokens.
    """
    anchors = run.request.steering_anchors
    if not anchors:
        return []
    from ltx_native.media import load_image

    height, width = target.shape.height * SPACE_SCALE, target.shape.width * SPACE_SCALE
    items: list[ConditioningItem] = []
    with run.models.use("video_encoder") as encoder:
        for anchor in anchors:
            pixels = load_image(anchor.path, height, width, anchor.crf)  # (1, 1, H, W, 3) in [-1, 1]
            latent = encoder(mx.array(pixels).astype(run.dtype))
            mx.eval(latent)
            if anchor.frame == 0 and replace_first:
                items.append(VideoConditionByLatentIndex(latent, anchor.strength, 0))
            else:
                items.append(VideoConditionByKeyframeIndex(latent, anchor.frame, anchor.strength))
    return items
