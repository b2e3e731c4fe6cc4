"""Pictures of frames: boxes, masks, depth and LiDAR over the image. Every function returns a new RGB array."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from geometry import Boxes, Frame
from perception.labels import IGNORE, OBJECTS, PALETTE_RGB

# Bright, unlike the palette's dark blue for vehicles, so that thin lines show on any image; in the order of OBJECTS.
BOX_RGB = ((0, 220, 255), (255, 70, 70), (255, 210, 0))
FAR_M = 60.0
NAMED_PX = 24
DENSE = 0.08
FONT, FONT_SCALE, TITLE_PX = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 20


def draw_boxes(image: UInt8[ndarray, "h w 3"], boxes: Boxes) -> UInt8[ndarray, "h w 3"]:
    """Outlines coloured by class; those at least 24 px wide carry its name and the track's number if there is one."""
    out = image.copy()
    for place, (xyxy_px, label) in enumerate(zip(boxes.xyxy_px, boxes.labels, strict=True)):
        left, top, right, bottom = (int(v) for v in np.floor(xyxy_px))
        colour = BOX_RGB[int(label)]
        cv2.rectangle(out, (left, top), (right, bottom), colour, 1 if right - left < NAMED_PX else 2)
        if right - left < NAMED_PX:
            continue
        text = OBJECTS[int(label)] + ("" if boxes.track_ids is None else f" {boxes.track_ids[place]}")
        cv2.putText(out, text, (left, max(top - 4, 10)), FONT, FONT_SCALE, colour, 1, cv2.LINE_AA)
    return out


def overlay_masks(
    image: UInt8[ndarray, "h w 3"], masks: UInt8[ndarray, "h w"], opacity: float = 0.55
) -> UInt8[ndarray, "h w 3"]:
    """Class colours (`PALETTE_RGB`) over the image, which shows untouched where it is unlabelled (255).

    Raises:
        ValueError: a mask value is neither a class nor 255.
    """
    strange = masks[(masks >= len(PALETTE_RGB)) & (masks != IGNORE)]
    if strange.size:
        raise ValueError(f"masks hold class {strange[0]}, want 0..{len(PALETTE_RGB) - 1} or {IGNORE}")
    colours = np.zeros((256, 3), np.float32)
    colours[: len(PALETTE_RGB)] = PALETTE_RGB
    mixed = (1 - opacity) * image + opacity * colours[masks]
    return np.where((masks == IGNORE)[..., None], image, mixed.round().astype(np.uint8))


def depth_colours(depth_m: Float[ndarray, "*shape"], far_m: float = FAR_M) -> UInt8[ndarray, "*shape 3"]:
    """Depth as colour, red near and blue at `far_m` and beyond; black where nothing was hit (not finite or <= 0)."""
    depth_m = np.asarray(depth_m, dtype=np.float64)
    hit = np.isfinite(depth_m) & (depth_m > 0)
    nearness = np.where(hit, 1 - np.clip(np.where(hit, depth_m, 0) / far_m, 0, 1), 0)
    grey = (255 * nearness).round().astype(np.uint8).reshape(-1, 1)
    colours = cv2.applyColorMap(grey, cv2.COLORMAP_TURBO)[:, 0, ::-1] if grey.size else np.zeros((0, 3), np.uint8)
    return np.where(hit[..., None], colours.reshape(*depth_m.shape, 3), np.uint8(0))


def draw_points(
    image: UInt8[ndarray, "h w 3"],
    points_px: Float[ndarray, "n 2"],
    depth_m: Float[ndarray, "n"],
    radius_px: int = 1,
    far_m: float = FAR_M,
) -> UInt8[ndarray, "h w 3"]:
    """Squares of side 2 `radius_px` + 1 coloured by depth, near over far; what lies behind or outside is not drawn.

    `points_px` are image coordinates, where the first pixel's centre is (0.5, 0.5).
    """
    out = image.copy()
    height, width = image.shape[:2]
    order = np.argsort(-depth_m)
    order = order[depth_m[order] > 0]
    colours = depth_colours(depth_m[order], far_m)
    cells = np.floor(np.clip(points_px[order], -1e6, 1e6)).astype(np.int64)
    inside = ((cells >= 0) & (cells < [width, height])).all(axis=1)
    cells, colours = cells[inside], colours[inside]
    span = range(-radius_px, radius_px + 1)
    offsets = np.array([(dx, dy) for dx in span for dy in span])
    # One pixel after another within a point, so that the last (nearest) point wins as a whole.
    squares = (cells[:, None] + offsets).reshape(-1, 2).clip(0, [width - 1, height - 1])
    out[squares[:, 1], squares[:, 0]] = np.repeat(colours, len(offsets), axis=0)
    return out


def draw_lidar(image: UInt8[ndarray, "h w 3"], frame: Frame, far_m: float = FAR_M) -> UInt8[ndarray, "h w 3"]:
    """The frame's LiDAR points projected into its image (darkened, so that they show), coloured by depth.

    A point is 3 px wide, or 1 px where points would otherwise cover the picture (over 8 in 100 pixels).

    Raises:
        ValueError: the frame has no LiDAR.
    """
    points_px, depth_m = frame.camera.project(frame.points_world())
    in_image = (points_px >= 0).all(axis=1) & (points_px < [image.shape[1], image.shape[0]]).all(axis=1) & (depth_m > 0)
    dense = in_image.sum() > DENSE * image.shape[0] * image.shape[1]
    return draw_points(image // 2, points_px[in_image], depth_m[in_image], 0 if dense else 1, far_m)


def panels(frame: Frame) -> dict[str, UInt8[ndarray, "h w 3"]]:
    """What there is to see of a frame: "image" with boxes, "masks", "LiDAR", "depth"; black where it has no image."""
    canvas = frame.image
    if canvas is None:
        canvas = np.zeros((frame.camera.height_px, frame.camera.width_px, 3), np.uint8)
    boxes = frame.boxes if frame.boxes is not None else Boxes.empty()
    found = {"image": draw_boxes(canvas, boxes)}
    if frame.masks is not None:
        found["masks"] = overlay_masks(canvas, frame.masks)
    if frame.points_lidar is not None:
        found["LiDAR"] = draw_lidar(canvas, frame)
    if frame.depth_m is not None:
        found["depth"] = depth_colours(frame.depth_m)
    return found


def contact_sheet(
    tiles: Sequence[tuple[str, UInt8[ndarray, "_ _ 3"]]], columns: int, tile_width_px: int = 640
) -> UInt8[ndarray, "height width 3"]:
    """Titled pictures in rows, each scaled to one width; shorter ones are padded below.

    Raises:
        ValueError: no pictures, or fewer than one column.
    """
    if not tiles or columns < 1:
        raise ValueError(f"a contact sheet takes at least 1 picture and 1 column, got {len(tiles)} and {columns}")
    scaled = [_titled(title, _to_width(image, tile_width_px)) for title, image in tiles]
    height = max(tile.shape[0] for tile in scaled)
    blank = np.zeros((height, tile_width_px, 3), np.uint8)
    padded = [np.concatenate([tile, blank[tile.shape[0] :]]) for tile in scaled]
    padded += [blank] * (-len(padded) % columns)
    rows = [np.concatenate(padded[start : start + columns], axis=1) for start in range(0, len(padded), columns)]
    return np.concatenate(rows)


def frame_sheet(frames: Sequence[Frame], tile_width_px: int = 640) -> UInt8[ndarray, "h w 3"]:
    """One row a frame, one column a kind of picture that any of them has, drawn at the size that they are shown at.

    Raises:
        ValueError: no frames.
    """
    rows = [panels(_at_width(frame, tile_width_px)) for frame in frames]
    kinds = list(dict.fromkeys(kind for row in rows for kind in row))
    tiles = []
    for frame, row in zip(frames, rows, strict=True):
        name = frame.source.rpartition("/")[2]
        for kind in kinds:
            picture = row.get(kind)
            title = f"{kind}  {name}  {frame.timestamp_s:.2f} s" if picture is not None else f"{kind}: none"
            tiles.append((title, picture if picture is not None else np.zeros_like(row["image"])))
    return contact_sheet(tiles, max(len(kinds), 1), tile_width_px)


def _at_width(frame: Frame, width_px: int) -> Frame:
    """The frame scaled, so that lines and names come out alike whatever the image's own size."""
    camera = frame.camera
    camera = camera.resized(width_px, max(1, round(camera.height_px * width_px / camera.width_px)))
    size = (camera.width_px, camera.height_px)
    scale = np.tile([size[0] / frame.camera.width_px, size[1] / frame.camera.height_px], 2).astype(np.float32)
    boxes, nearest = frame.boxes, cv2.INTER_NEAREST
    return replace(
        frame,
        camera=camera,
        image=None if frame.image is None else _to_width(frame.image, width_px),
        boxes=None if boxes is None else replace(boxes, xyxy_px=boxes.xyxy_px * scale),
        masks=None if frame.masks is None else cv2.resize(frame.masks, size, interpolation=nearest),
        instances=None if frame.instances is None else cv2.resize(frame.instances, size, interpolation=nearest),
        depth_m=None if frame.depth_m is None else cv2.resize(frame.depth_m, size, interpolation=nearest),
    )


def _to_width(image: UInt8[ndarray, "h w 3"], width_px: int) -> UInt8[ndarray, "height width_px 3"]:
    height_px = max(1, round(image.shape[0] * width_px / image.shape[1]))
    shrinks = width_px < image.shape[1]
    return cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _titled(title: str, image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "_ w 3"]:
    strip = np.full((TITLE_PX, image.shape[1], 3), 32, np.uint8)
    cv2.putText(strip, title, (6, TITLE_PX - 6), FONT, FONT_SCALE, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate([strip, image])
