// One camera's call of the rasteriser: its constants, inputs, buffers and results.
#pragma once
#include "vectors.hpp"

constexpr int TILE = 16, BLOCKS = 16, BLOCK_PX = 16, PARTS = BLOCK_PX / VL, SLOT = 16, CHUNK = 512;
constexpr double ALPHA_CUT = 1.0 / 255, MARGIN = 0.3, MAX_SIGMAS = 3.33, LN2 = 0.6931471805599453;
constexpr double BASE2 = 2 * LN2;  // (u² + v²) in natural units over the same in base 2
constexpr float ALPHA_MAX = 0.999f, T_STOP = 1e-4f, LOG2_CUT = -7.994353436858858f;

// What a tile needs of a splat. pk = p k. Doubles: a tile subtracts its origin from x and y. Depth, if it is drawn, is
// the last feature; depth_rest is what float leaves of it.
struct alignas(64) Splat {
  double x, y, p, pk, q;
  float log2_opacity, feature[4], depth_rest;
};
// Tiles [x0, x1) x [y0, y1), none for splats that are not drawn; the slot of the first pair; depth along z.
struct Box {
  uint16_t x0, y0, x1, y1;
  int32_t first_slot;
  float depth;
};
struct Pair { int32_t splat, slot; };

// Mirrored field by field in cpu.py.
struct Call {
  // depth: 1 if the last channel is the camera's z; expected: 1 if that is divided by the sum of weights
  int64_t n, width, height, channels, depth, expected, threads, pairs;
  int64_t sh_degree, coefficients;  // -1: colours are RGB; else how many coefficients a Gaussian has, 3 floats each
  double view[12], eye[3], fx, fy, cx, cy, eps2d, near_plane;
  const float *means, *quats, *scales, *opacities, *colors, *background;
  Splat *splats;
  Box *boxes;
  float *means2d;
  int32_t *radii;
  Pair *pair;
  int32_t *tile_start;
  uint16_t *touched;  // per sorted pair: blocks with a pixel that it contributes to
  float *transmittance;
  int32_t *last, *contributing;  // contributing: pixels over all pairs of a tile
  float *expected_depth;  // [tiles, 3, 256]: expected depth, what float leaves of it, 1 / sum of weights
  float *image, *alpha;
  const float *g_image, *g_alpha;
  float *slots;
  uint8_t *slot_used;
  float *g_means, *g_quats, *g_scales, *g_opacities, *g_colors;
  double *g_view, *g_background;  // [chunks, 15]: 12 of the pose, 3 of the eye; [tiles, 4]
};

static inline int64_t area(const Box &b) { return (b.x1 - b.x0) * (b.y1 - b.y0); }
