"""Walls of buildings: bricks or plaster, windows in bays and floors, doors, shop windows with sign boards above."""

import numpy as np
from jaxtyping import Bool, Float32, Int32
from numpy import ndarray

from perception.datasets.town.layout import KERB_M
from perception.datasets.town.points import Canvas, Picked, grain, hashed, near_by

_LIT_SHARE = 0.35
_LIT_RGB = np.array([1.6, 1.05, 0.5], np.float32)


def paint_facade(points: Picked, canvas: Canvas) -> None:
    """A wall that differs from building to building and from bay to bay, so that places can be told apart."""
    f, b = canvas.facades, points.owner
    number = f.number.take(b).astype(np.int32)
    on_x = np.abs(points.normal[:, 1]) > np.abs(points.normal[:, 0])
    along = np.where(on_x, points.position_m[:, 0], points.position_m[:, 1])
    z = points.position_m[:, 2] - np.float32(KERB_M)
    wall = b * 2 + ~on_x
    u = (along - f.origin_m.take(wall)) / f.bay_m.take(wall)
    v = z / f.floor_m.take(b)
    fu, fv = u - np.floor(u) - np.float32(0.5), v - np.floor(v)
    bay, floor = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    rgb = points.rgb * _wall(points, along, z, f.brick.take(b) > 0.5)[:, None]
    street, shop = floor == 0, f.shop.take(b) > 0.5
    plain = (z < f.height_m.take(b)) & ~(street & shop)
    tall = f.window.take(2 * b + 1)
    side = np.abs(fu) / f.window.take(2 * b)
    level = np.abs(fv - np.float32(0.55)) / tall
    _stroke(rgb, plain & (side < 0.62) & (np.abs(fv - 0.55 + tall / 2) < 0.05), f.trim, b)
    _stroke(rgb, plain & (side < 0.56) & (level < 0.56), f.trim, b)
    window = plain & (side < 0.5) & (level < 0.5) & (np.abs(fu) > 0.015)
    front = street & shop & (fv > 0.12) & (fv < 0.78) & (np.abs(fu) < 0.44)
    glass = np.flatnonzero(window | front)
    gloss, glow = np.zeros(len(b), np.float32), np.zeros_like(rgb)
    gloss[glass] = 0.9
    chance = hashed(bay[glass], floor[glass], number[glass])
    rgb[glass] = _behind_glass(chance, fv[glass], fu[glass])
    if canvas.light.lamps:
        glow[glass] = np.where((chance < _LIT_SHARE)[:, None], _LIT_RGB * (0.4 + chance[:, None]), 0).astype(np.float32)
    _sign_board(rgb, street & shop & (fv > 0.8), along, fv, f.door.take(b, axis=0), number)
    door = street & ~shop & (hashed(bay, number) < 0.3) & (fv < 0.7) & (np.abs(fu) < 0.2)
    _stroke(rgb, door, f.door, b)
    gloss[door], glow[door] = 0.1, 0
    canvas.put(rgb, gloss, glow)


def _wall(
    points: Picked, along: Float32[ndarray, "n"], z: Float32[ndarray, "n"], brick: Bool[ndarray, "n"]
) -> Float32[ndarray, "n"]:
    """Tone of bricks, each a little different, or of stained plaster; darker at the foot."""
    near = near_by(points, 40.0)
    course = np.floor(z * 10).astype(np.int32)
    shift = along * 4 + 0.5 * (course & 1).astype(np.float32)
    mortar = (np.mod(z, 0.1) < 0.018) | (np.mod(shift, 1) < 0.05)
    each = hashed(np.floor(shift).astype(np.int32), course)
    bricks = 0.75 + (0.5 * (each - 0.5) + np.float32(0.45) * mortar) * near
    plaster = 0.62 + 0.55 * grain(along, z * np.float32(0.35), 0.06) + 0.25 * (grain(z, along, 0.015) - 0.5) * near
    return np.where(brick, bricks, plaster) * (1 - np.float32(0.3) * (z < 0.5)) * (0.85 + 0.3 * grain(along, z, 0.5))


def _behind_glass(
    chance: Float32[ndarray, "n"], fv: Float32[ndarray, "n"], fu: Float32[ndarray, "n"]
) -> Float32[ndarray, "n 3"]:
    """A dark room, and in some windows curtains or a blind."""
    curtain = ((chance * 7) % 1 < 0.35) & (np.abs(fu) > 0.12)
    blind = ((chance * 13) % 1 < 0.25) & (fv > 0.6)
    dark = np.float32(0.015) + np.float32(0.04) * chance
    tone = np.where(blind, np.float32(0.45), np.where(curtain, np.float32(0.3), dark))
    return tone[:, None] * np.array([0.95, 1.0, 1.05], np.float32)


def _sign_board(
    rgb: Float32[ndarray, "n 3"],
    board: Bool[ndarray, "n"],
    along: Float32[ndarray, "n"],
    fv: Float32[ndarray, "n"],
    colour: Float32[ndarray, "n 3"],
    number: Int32[ndarray, "n"],
) -> None:
    """Blocks that look like letters from afar, different for each shop."""
    at = np.flatnonzero(board)
    column, row = np.floor(along[at] * 7).astype(np.int32), np.floor(fv[at] * 28).astype(np.int32)
    ink = (
        (hashed(column, row, number[at]) < 0.5)
        & (hashed(column // 5, number[at]) < 0.7)
        & (np.abs(fv[at] - 0.9) < 0.06)
    )
    rgb[at] = np.where(ink[:, None], np.float32(0.8), colour[at] * np.float32(1.5))


def _stroke(
    rgb: Float32[ndarray, "n 3"],
    where: Bool[ndarray, "n"],
    colour: Float32[ndarray, "b 3"],
    owner: Int32[ndarray, "n"],
) -> None:
    at = np.flatnonzero(where)
    rgb[at] = colour.take(owner.take(at), axis=0)
