// The pixels of one tile, there and back.
#pragma once
#include "tiles.hpp"

constexpr int32_t GROUP = 32;  // pairs that are looked at before they are laid

// Expected depth of the pixels of a tile. Sums in double, for the way back needs depths relative to the expected one,
// and where depths are alike little is left of their difference.
template <bool EXPECTED>
struct DepthSums {
  alignas(64) double weight[256] = {}, weighted[256] = {};
  __attribute__((always_inline)) void add(int at0, vf w, double depth) {
    add_in_double(w, depth, weight + at0, weighted + at0);
  }
  void finish(const Call &c, const Tile &tile, float *out) const {
    float *whole = c.expected_depth + tile.index * 768, *rest = whole + 256, *inverse = rest + 256;
    for (int i = 0; i < 256; i++) {
      double depth = weight[i] > 0 ? weighted[i] / weight[i] : 0;
      out[i] = whole[i] = depth;
      rest[i] = depth - whole[i];
      inverse[i] = weight[i] > 0 ? 1 / weight[i] : 0;
    }
  }
};
template <>
struct DepthSums<false> {};

// State of the pixels of a tile in block order. Pixels that are full, and those outside the image, have t < 0.
template <int CH, bool EXPECTED>
struct Forward {
  alignas(64) float t[256], color[CH][256] = {};
  alignas(64) int32_t last[256];
  int32_t contributing = 0;
  DepthSums<EXPECTED> depths;

  explicit Forward(const Tile &tile) {
    for (int i = 0; i < 256; i++) t[i] = -1, last[i] = -1;
    tile.each_pixel([&](int i, int64_t) { t[i] = 1; });
  }

  // Blocks with a pixel that is not full.
  unsigned open() const {
    unsigned blocks = 0;
    for (int b = 0; b < BLOCKS; b++) {
      unsigned any = 0;
      for (int i = 0; i < PARTS; i++) any |= bits(at(t + b * 16 + i * VL) > 0);
      blocks |= (any != 0) << b;
    }
    return blocks;
  }

  // Lays pair k over the blocks `todo` and returns those that it shows in.
  __attribute__((always_inline)) unsigned lay(int32_t k, const Splat &s, const Local &g, unsigned todo) {
    unsigned touched = 0;
    for (; todo; todo &= todo - 1) {
      int b = __builtin_ctz(todo);
      float du = g.to_u[b], dv = g.to_v[b];
      for (int i = 0; i < PARTS; i++) {
        int at0 = b * 16 + i * VL;
        vf u = g.u[i] + du, v = g.v[i] + dv, e = g.log2_opacity - (u * u + v * v);
        vf a = exp2_(e), t0 = at(t + at0);
        a = a < ALPHA_MAX ? a : splatf(ALPHA_MAX);
        vi seen = e >= LOG2_CUT;
        vf t1 = t0 - t0 * a;
        vi ok = seen & (t1 > T_STOP), full = seen & ~ok;
        vf w = ok ? a * t0 : splatf(0);
        for (int ch = 0; ch < CH - EXPECTED; ch++) at(color[ch] + at0) += s.feature[ch] * w;
        if constexpr (EXPECTED) depths.add(at0, w, (double)s.feature[CH - 1] + s.depth_rest);
        t1 = ok ? t1 : t0;
        at(t + at0) = full ? (vf)((vi)t1 | INT32_MIN) : t1;
        vi &l = *(vi *)(last + at0);
        l = ok ? k - (vi){} : l;
        unsigned pixels = bits(ok);
        touched |= (pixels != 0) << b;
        contributing += __builtin_popcount(pixels);
      }
    }
    return touched;
  }

  void finish(const Call &c, const Tile &tile) {
    c.contributing[tile.index] = contributing;
    for (int i = 0; i < 256; i++) t[i] = std::fabs(t[i]);
    std::memcpy(c.transmittance + tile.index * 256, t, sizeof t);
    std::memcpy(c.last + tile.index * 256, last, sizeof last);
    if constexpr (EXPECTED) depths.finish(c, tile, color[CH - 1]);
    tile.each_pixel([&](int i, int64_t pixel) {
      for (int ch = 0; ch < CH; ch++)
        c.image[pixel * CH + ch] = color[ch][i] + (c.background ? t[i] * c.background[ch] : 0);
      c.alpha[pixel] = 1 - t[i];
    });
  }
};

// Pairs are taken in groups: which blocks each may show in is known before the first is laid, so that the processor
// need not guess.
template <int CH, bool EXPECTED>
static void render_tile(const Call &c, const Tile &tile) {
  Forward<CH, EXPECTED> pixels(tile);
  Local local[GROUP];
  unsigned blocks[GROUP];
  int32_t begin = c.tile_start[tile.index], end = c.tile_start[tile.index + 1];
  for (int32_t first = begin; first < end; first += GROUP) {
    unsigned open = pixels.open();
    if (!open) {
      std::memset(c.touched + first, 0, 2 * (end - first));
      break;
    }
    int32_t count = std::min(GROUP, end - first);
    for (int j = 0; j < count; j++) {
      if (first + j + 8 < end) __builtin_prefetch(&c.splats[c.pair[first + j + 8].splat]);
      local[j] = Local(c.splats[c.pair[first + j].splat], tile);
      blocks[j] = local[j].blocks() & open;
    }
    for (int j = 0; j < count; j++)
      c.touched[first + j] = pixels.lay(first + j, c.splats[c.pair[first + j].splat], local[j], blocks[j]);
  }
  pixels.finish(c, tile);
}

// The same from the last pair to the first: t is divided out again, `rest` is what lies behind the pair times the
// image gradient. Expected depth is the sum of weight times depth over the sum of weights: its gradient is that of a
// blended colour whose value at a pixel is depth less expected depth, over the sum of weights.
template <int CH, bool EXPECTED>
struct Backward {
  alignas(64) float t[256], rest[256] = {}, grad[CH][256] = {}, expected[EXPECTED ? 768 : 1];
  alignas(64) int32_t last[256];

  Backward(const Call &c, const Tile &tile) {
    double g_background[4] = {};
    std::memcpy(t, c.transmittance + tile.index * 256, sizeof t);
    std::memcpy(last, c.last + tile.index * 256, sizeof last);
    if constexpr (EXPECTED) std::memcpy(expected, c.expected_depth + tile.index * 768, sizeof expected);
    tile.each_pixel([&](int i, int64_t pixel) {
      float behind = -c.g_alpha[pixel];
      for (int ch = 0; ch < CH; ch++) {
        grad[ch][i] = c.g_image[pixel * CH + ch];
        if (EXPECTED && ch == CH - 1) {
          grad[ch][i] *= expected[512 + i];
          continue;  // what lies behind all Gaussians has no part in it
        }
        if (c.background) {
          behind += c.background[ch] * grad[ch][i];
          g_background[ch] += t[i] * grad[ch][i];
        }
      }
      rest[i] = t[i] * behind;
    });
    std::memcpy(c.g_background + tile.index * 4, g_background, sizeof g_background);
  }

  // Takes pair k off the blocks `todo`; the sums of its slot.
  __attribute__((always_inline)) void lift(int32_t k, const Splat &s, const Local &g, unsigned todo, vf *sum) {
    for (; todo; todo &= todo - 1) {
      int b = __builtin_ctz(todo);
      float du = g.to_u[b], dv = g.to_v[b];
      for (int i = 0; i < PARTS; i++) {
        int at0 = b * 16 + i * VL;
        vf u = g.u[i] + du, v = g.v[i] + dv, e = g.log2_opacity - (u * u + v * v);
        vf raw = exp2_(e), a = raw < ALPHA_MAX ? raw : splatf(ALPHA_MAX);
        vi ok = (e >= LOG2_CUT) & (*(vi *)(last + at0) >= k);
        a = ok ? a : splatf(0);
        vf inverse = reciprocal(1 - a), t0 = at(t + at0) * inverse, w = a * t0, cg = {};
        for (int ch = 0; ch < CH - EXPECTED; ch++) cg += s.feature[ch] * at(grad[ch] + at0);
        if constexpr (EXPECTED) {
          vf behind = (s.feature[CH - 1] - at(expected + at0)) + (s.depth_rest - at(expected + 256 + at0));
          cg += behind * at(grad[CH - 1] + at0);
        }
        vf ge = (at(rest + at0) * inverse - t0 * cg) * a;
        ge = raw > ALPHA_MAX ? splatf(0) : ge;  // the clamp passes no gradient
        at(t + at0) = t0;
        at(rest + at0) += w * cg;
        for (int ch = 0; ch < CH; ch++) sum[6 + ch] += w * at(grad[ch] + at0);
        vf gu = ge * u, gv = ge * v;
        sum[0] += ge, sum[1] += gu, sum[2] += gv;
        sum[3] += gu * u, sum[4] += gu * v, sum[5] += gv * v;
      }
    }
  }
};

template <int CH, bool EXPECTED>
static void backward_tile(const Call &c, const Tile &tile) {
  Backward<CH, EXPECTED> pixels(c, tile);
  int32_t begin = c.tile_start[tile.index], end = c.tile_start[tile.index + 1];
  for (int32_t k = end - 1; k >= begin; k--) {
    if (k - 8 >= begin) __builtin_prefetch(&c.splats[c.pair[k - 8].splat]);
    unsigned todo = c.touched[k];
    c.slot_used[c.pair[k].slot] = todo != 0;
    if (!todo) continue;
    const Splat &s = c.splats[c.pair[k].splat];
    vf sum[6 + CH] = {};
    pixels.lift(k, s, Local(s, tile), todo, sum);
    store_sums<6 + CH>(c.slots + (int64_t)c.pair[k].slot * SLOT, sum);
  }
}

template <int CH, bool EXPECTED>
static void over_tiles(const Call &c, bool back) {
  int64_t tiles = ((c.width + TILE - 1) / TILE) * ((c.height + TILE - 1) / TILE);
#pragma omp parallel for schedule(dynamic, 4) num_threads(c.threads)
  for (int64_t t = 0; t < tiles; t++)
    back ? backward_tile<CH, EXPECTED>(c, Tile(c, t)) : render_tile<CH, EXPECTED>(c, Tile(c, t));
}
static void all_tiles(const Call &c, bool back) {
  if (c.expected)
    c.channels == 1 ? over_tiles<1, true>(c, back) : over_tiles<4, true>(c, back);
  else if (c.channels == 1)
    over_tiles<1, false>(c, back);
  else
    c.channels == 3 ? over_tiles<3, false>(c, back) : over_tiles<4, false>(c, back);
}
