// Which splats reach which tile, nearest first.
#pragma once
#include <cstring>
#include <vector>

#include "call.hpp"

struct Key { uint32_t depth; int32_t splat; };

// Drawn splats, nearest first, equal depths in order of index: radix sort on the bits of positive floats.
static std::vector<Key> by_depth(const Call &c) {
  std::vector<Key> keys, other;
  keys.reserve(c.n);
  for (int64_t i = 0; i < c.n; i++)
    if (area(c.boxes[i])) {
      uint32_t bits;
      std::memcpy(&bits, &c.boxes[i].depth, 4);
      keys.push_back({bits, (int32_t)i});
    }
  other.resize(keys.size());
  std::vector<int64_t> start(2048);
  for (int shift = 0; shift < 32; shift += 11) {
    std::fill(start.begin(), start.end(), 0);
    for (const Key &key : keys) start[key.depth >> shift & 2047]++;
    int64_t sum = 0;
    for (int64_t &s : start) sum += s, s = sum - s;
    for (const Key &key : keys) other[start[key.depth >> shift & 2047]++] = key;
    keys.swap(other);
  }
  return keys;
}

// Fills `pair` tile by tile, in order of depth within a tile, and `tile_start`.
static void sort_pairs(const Call &c) {
  int64_t across = (c.width + TILE - 1) / TILE, tiles = across * ((c.height + TILE - 1) / TILE);
  std::vector<int32_t> next(tiles + 1, 0);
  for (int64_t i = 0; i < c.n; i++) {
    Box b = c.boxes[i];
    for (int y = b.y0; y < b.y1; y++)
      for (int x = b.x0; x < b.x1; x++) next[y * across + x + 1]++;
  }
  for (int64_t t = 0; t < tiles; t++) next[t + 1] += next[t];
  std::copy(next.begin(), next.end(), c.tile_start);
  for (const Key &key : by_depth(c)) {
    Box b = c.boxes[key.splat];
    int32_t slot = b.first_slot;
    for (int y = b.y0; y < b.y1; y++)
      for (int x = b.x0; x < b.x1; x++) c.pair[next[y * across + x]++] = {key.splat, slot++};
  }
}

struct Tile {
  int64_t index, x0, y0, cols, rows, width;  // cols, rows: of its pixels inside the image
  explicit Tile(const Call &c, int64_t t) : index(t), width(c.width) {
    int64_t across = (c.width + TILE - 1) / TILE;
    x0 = t % across * TILE, y0 = t / across * TILE;
    cols = std::min<int64_t>(TILE, c.width - x0), rows = std::min<int64_t>(TILE, c.height - y0);
  }
  // Calls f(position in block order, index in the image) for its pixels inside the image, row by row.
  template <class F>
  __attribute__((always_inline)) void each_pixel(F f) const {
    for (int y = 0; y < rows; y++)
      for (int x = 0; x < cols; x++)
        f((y / 4 * 4 + x / 4) * BLOCK_PX + y % 4 * 4 + x % 4, (y0 + y) * width + x0 + x);
  }
};

constexpr int MIDDLE = TILE / 2;  // steps within a tile are counted from there: floats are densest near 0

struct Pattern {
  alignas(64) float px[BLOCK_PX], py[BLOCK_PX], bx[BLOCKS], by[BLOCKS];
  Pattern() {
    for (int i = 0; i < 16; i++) px[i] = i % 4, py[i] = i / 4, bx[i] = i % 4 * 4 - MIDDLE, by[i] = i / 4 * 4 - MIDDLE;
  }
};
static const Pattern pattern;

// A splat seen from a tile: u and v over the first block, and their steps to each block.
struct Local {
  vf u[PARTS], v[PARTS];
  alignas(64) float to_u[BLOCKS], to_v[BLOCKS];
  float p, pk, q, log2_opacity;
  Local() {}
  Local(const Splat &s, const Tile &t) {
    double dx = t.x0 + MIDDLE + 0.5 - s.x, dy = t.y0 + MIDDLE + 0.5 - s.y;
    p = s.p, pk = s.pk, q = s.q, log2_opacity = s.log2_opacity;
    float u0 = s.p * dx - s.pk * dy, v0 = s.q * dy;
    for (int i = 0; i < PARTS; i++) {
      vf x = at(pattern.px + i * VL), y = at(pattern.py + i * VL);
      u[i] = p * x - pk * y, v[i] = q * y;
      x = at(pattern.bx + i * VL), y = at(pattern.by + i * VL);
      at(to_u + i * VL) = u0 + (p * x - pk * y), at(to_v + i * VL) = v0 + q * y;
    }
  }
  // Blocks that may hold a visible pixel: u² + v² is at least its value with u and v minimised one by one.
  unsigned blocks() const {
    float reach = log2_opacity - LOG2_CUT + 1e-3f;
    float mid_u = 1.5f * (p - pk), half_u = 1.5f * (p + std::fabs(pk)), half_v = 1.5f * q;
    unsigned mask = 0;
    for (int i = 0; i < PARTS; i++) {
      vf u = at(to_u + i * VL) + mid_u, v = at(to_v + i * VL) + half_v;
      u = (u < 0 ? -u : u) - half_u, v = (v < 0 ? -v : v) - half_v;
      u = u < 0 ? splatf(0) : u, v = v < 0 ? splatf(0) : v;
      mask |= bits(u * u + v * v <= reach) << (i * VL);
    }
    return mask;
  }
};
