// Rasteriser of 3D Gaussians with gradients, for CPUs. Plain C interface; see cpu.py for the callers and oracle.py for
// the definition. Kerbl et al. 2023 (image model), Zwicker et al. 2001 (EWA projection).
//
// Notation. The inverse 2D covariance of a splat is factored so that its exponent in base 2 is u² + v² with
//     u = p (dx - k dy),  v = q dy,  (dx, dy) = pixel centre - splat centre,
// which stays exact for needles, where the usual a dx² + 2 b dx dy + c dy² cancels. The gradients of a splat are sums
// over pixels of g, g u, g v, g u², g u v, g v² with g = dLoss/dexponent, and of weight times image gradient.
//
// An image is cut into tiles of 16 x 16 pixels and a tile into 16 blocks of 4 x 4; a vector holds (part of) a block.
// Every sum has a fixed order whatever the number of threads: a pair (splat, tile) has its own slot of partial sums.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef VL
#define VL 4  // floats in a vector
#endif
constexpr int VD = VL / 2, TILE = 16, BLOCKS = 16, BLOCK_PX = 16, PARTS = BLOCK_PX / VL, SLOT = 16, CHUNK = 512;
typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef double vd __attribute__((vector_size(4 * VL)));
typedef int64_t vl __attribute__((vector_size(4 * VL)));

constexpr double ALPHA_CUT = 1.0 / 255, MARGIN = 0.3, MAX_SIGMAS = 3.33, LN2 = 0.6931471805599453;
constexpr double BASE2 = 2 * LN2;  // (u² + v²) in natural units over the same in base 2
constexpr float ALPHA_MAX = 0.999f, T_STOP = 1e-4f, LOG2_CUT = -7.994353436858858f;

// What a tile needs of a splat. pk = p k. Doubles: a tile subtracts its origin from x and y.
struct alignas(64) Splat {
  double x, y, p, pk, q;
  float log2_opacity, feature[4];
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
  int64_t n, width, height, channels, depth, threads, pairs;  // depth: 1 if the last channel is the camera's z
  double view[12], fx, fy, cx, cy, eps2d, near_plane;
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
  float *image, *alpha;
  const float *g_image, *g_alpha;
  float *slots;
  uint8_t *slot_used;
  float *g_means, *g_quats, *g_scales, *g_opacities, *g_colors;
  double *g_view, *g_background;  // [chunks, 12], [tiles, 4]
};

// ---------------------------------------------------------------- projection, VD Gaussians at a time, double precision

static inline vd splatd(double x) { return x - (vd){}; }
static inline vf splatf(float x) { return x - (vf){}; }
static inline vd root(vd a) {
  for (int l = 0; l < VD; l++) a[l] = __builtin_sqrt(a[l]);
  return a;
}
static inline vd clamp(vd a, double low, double high) {
  a = a < low ? splatd(low) : a;
  return a > high ? splatd(high) : a;
}
struct V3 {
  vd x, y, z;
};
static inline V3 operator*(V3 a, vd s) { return {a.x * s, a.y * s, a.z * s}; }
static inline V3 operator+(V3 a, V3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
static inline V3 operator-(V3 a, V3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
static inline vd dot(V3 a, V3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }

// Lanes i … i + VD - 1 of column `column` of a row-major array; lanes past the end repeat the last row.
static inline vd lanes(const float *a, int64_t i, int64_t n, int stride, int column) {
  vd r;
  const float *first = a + i * stride + column;
  if (i + VD <= n)
    for (int l = 0; l < VD; l++) r[l] = first[l * stride];
  else
    for (int l = 0; l < VD; l++) r[l] = first[std::min<int64_t>(l, n - 1 - i) * stride];
  return r;
}

// A Gaussian in a camera, with what the way back needs.
struct Projected {
  V3 point, mean, quat_xyz, scale;
  vd quat_w, quat_norm;
  V3 column[3];   // of the Gaussian's rotation
  V3 a0, a1;      // rows of Jacobian times camera rotation
  V3 m0, m1;      // rows of that times rotation times scales; covariance = m mᵀ + eps
  vd ratio_x, ratio_y;  // x/z and y/z, clamped for the Jacobian
  vl free_x, free_y, ahead;
  vd x, y, xx, yy, p, k, q;
};

static inline Projected project_lanes(const Call &c, int64_t i) {
  Projected o;
  const double *w = c.view;
  auto in = [&](const float *a, int stride, int column) { return lanes(a, i, c.n, stride, column); };
  o.mean = {in(c.means, 3, 0), in(c.means, 3, 1), in(c.means, 3, 2)};
  o.scale = {in(c.scales, 3, 0), in(c.scales, 3, 1), in(c.scales, 3, 2)};
  V3 t = o.mean;
  o.point = {w[0] * t.x + w[1] * t.y + w[2] * t.z + w[3], w[4] * t.x + w[5] * t.y + w[6] * t.z + w[7],
             w[8] * t.x + w[9] * t.y + w[10] * t.z + w[11]};
  o.ahead = o.point.z >= c.near_plane;
  o.point.z = o.ahead ? o.point.z : splatd(1);
  vd rz = 1 / o.point.z, sx = o.point.x * rz, sy = o.point.y * rz;
  o.x = c.fx * sx + c.cx;
  o.y = c.fy * sy + c.cy;
  double mx = MARGIN * 0.5 * c.width / c.fx, my = MARGIN * 0.5 * c.height / c.fy;
  o.ratio_x = clamp(sx, -(c.cx / c.fx + mx), (c.width - c.cx) / c.fx + mx);
  o.ratio_y = clamp(sy, -(c.cy / c.fy + my), (c.height - c.cy) / c.fy + my);
  o.free_x = o.ratio_x == sx;
  o.free_y = o.ratio_y == sy;

  vd qw = in(c.quats, 4, 0), qx = in(c.quats, 4, 1), qy = in(c.quats, 4, 2), qz = in(c.quats, 4, 3);
  o.quat_norm = root(qw * qw + qx * qx + qy * qy + qz * qz);
  o.quat_norm = o.quat_norm < 1e-12 ? splatd(1e-12) : o.quat_norm;
  vd s = 1 / o.quat_norm;
  qw *= s, qx *= s, qy *= s, qz *= s;
  o.quat_w = qw;
  o.quat_xyz = {qx, qy, qz};
  o.column[0] = {1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy + qw * qz), 2 * (qx * qz - qw * qy)};
  o.column[1] = {2 * (qx * qy - qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz + qw * qx)};
  o.column[2] = {2 * (qx * qz + qw * qy), 2 * (qy * qz - qw * qx), 1 - 2 * (qx * qx + qy * qy)};

  V3 w0 = {splatd(w[0]), splatd(w[1]), splatd(w[2])}, w1 = {splatd(w[4]), splatd(w[5]), splatd(w[6])},
     w2 = {splatd(w[8]), splatd(w[9]), splatd(w[10])};
  o.a0 = (w0 - w2 * o.ratio_x) * (c.fx * rz);
  o.a1 = (w1 - w2 * o.ratio_y) * (c.fy * rz);
  o.m0 = {dot(o.a0, o.column[0]) * o.scale.x, dot(o.a0, o.column[1]) * o.scale.y, dot(o.a0, o.column[2]) * o.scale.z};
  o.m1 = {dot(o.a1, o.column[0]) * o.scale.x, dot(o.a1, o.column[1]) * o.scale.y, dot(o.a1, o.column[2]) * o.scale.z};
  vd n0 = dot(o.m0, o.m0), n1 = dot(o.m1, o.m1);
  // The determinant of m mᵀ is the squared length of the cross product of the rows: no difference of large numbers.
  V3 cross = {o.m0.y * o.m1.z - o.m0.z * o.m1.y, o.m0.z * o.m1.x - o.m0.x * o.m1.z, o.m0.x * o.m1.y - o.m0.y * o.m1.x};
  vd determinant = dot(cross, cross) + c.eps2d * (n0 + n1) + c.eps2d * c.eps2d;
  o.xx = n0 + c.eps2d;
  o.yy = n1 + c.eps2d;
  o.k = dot(o.m0, o.m1) / o.yy;
  o.p = root(o.yy / (BASE2 * determinant));
  o.q = root(1 / (BASE2 * o.yy));
  return o;
}

// First and past-the-last tile that the pixel centres within [low, high] lie in.
static inline void tile_range(double low, double high, int64_t pixels, uint16_t *first, uint16_t *end) {
  double a = std::max(std::ceil(low - 0.5), 0.0), b = std::min(std::floor(high - 0.5), pixels - 1.0);
  *first = a <= b ? (uint16_t)((int32_t)a / TILE) : 0;
  *end = a <= b ? (uint16_t)((int32_t)b / TILE + 1) : 0;
}

static inline void store_splat(const Call &c, const Projected &o, int64_t i, int l) {
  double opacity = c.opacities[i], x = o.x[l], y = o.y[l], rx = 0, ry = 0;
  bool drawn = o.ahead[l] && opacity >= ALPHA_CUT;
  if (drawn) {
    double sigmas = std::min(MAX_SIGMAS, std::sqrt(2 * std::max(0.0, (double)std::log((float)opacity * 255))));
    rx = sigmas * std::sqrt((double)o.xx[l]), ry = sigmas * std::sqrt((double)o.yy[l]);
    double ceil_x = std::ceil(rx), ceil_y = std::ceil(ry);
    drawn = x + ceil_x > 0 && x - ceil_x < c.width && y + ceil_y > 0 && y - ceil_y < c.height;
  }
  c.radii[2 * i] = drawn ? (int32_t)std::min(std::ceil(rx), 1073741824.0) : 0;
  c.radii[2 * i + 1] = drawn ? (int32_t)std::min(std::ceil(ry), 1073741824.0) : 0;
  c.means2d[2 * i] = x, c.means2d[2 * i + 1] = y;
  Box box = {0, 0, 0, 0, 0, (float)o.point.z[l]};
  if (drawn) {
    tile_range(x - rx - 1e-3, x + rx + 1e-3, c.width, &box.x0, &box.x1);
    tile_range(y - ry - 1e-3, y + ry + 1e-3, c.height, &box.y0, &box.y1);
    Splat s = {x, y, o.p[l], o.p[l] * o.k[l], o.q[l], std::log2((float)opacity), {0, 0, 0, 0}};
    int colors = c.channels - c.depth;
    for (int j = 0; j < colors; j++) s.feature[j] = c.colors[i * colors + j];
    if (c.depth) s.feature[colors] = o.point.z[l];
    c.splats[i] = s;
  }
  c.boxes[i] = box;
}

static inline int64_t area(const Box &b) { return (b.x1 - b.x0) * (b.y1 - b.y0); }

// Projects all Gaussians and returns the number of pairs (splat, tile).
extern "C" int64_t convoy_project(Call *call) {
  const Call &c = *call;
#pragma omp parallel for schedule(static) num_threads(c.threads)
  for (int64_t i = 0; i < c.n; i += VD) {
    Projected o = project_lanes(c, i);
    for (int l = 0; l < VD && i + l < c.n; l++) store_splat(c, o, i + l, l);
  }
  int64_t pairs = 0;
  for (int64_t i = 0; i < c.n; i++) {
    c.boxes[i].first_slot = (int32_t)pairs;
    pairs += area(c.boxes[i]);
  }
  return pairs;
}

// ------------------------------------------------------------------------------------------------- pairs by tile

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

// ------------------------------------------------------------------------------------------------- one tile

static inline unsigned bits(vi mask) {
#if VL == 16 && defined(__AVX512DQ__)
  return _mm512_movepi32_mask((__m512i)mask);
#elif VL == 8 && defined(__AVX__)
  return _mm256_movemask_ps((__m256)mask);
#elif VL == 4 && defined(__SSE2__)
  return _mm_movemask_ps((__m128)mask);
#else
  unsigned r = 0;
  for (int l = 0; l < VL; l++) r |= (mask[l] & 1u) << l;
  return r;
#endif
}

// 2^t for -126 <= t <= 0: polynomial of the fraction, exponent added to the bits. Relative error 1e-7; lanes below
// -126 hold anything.
static inline vf exp2_(vf t) {
  vi whole = __builtin_convertvector(t - 0.5f, vi);
  vf f = t - __builtin_convertvector(whole, vf);
  vf r = 0.0013400432653725147f * f + 0.009676037356257439f;
  r = r * f + 0.05550327152013779f;
  r = r * f + 0.2402210682630539f;
  r = r * f + 0.6931471824645996f;
  r = r * f + 1.0000001192092896f;
  return (vf)((vi)r + (whole << 23));
}

struct Tile {
  int64_t index, x0, y0, cols, rows;  // cols, rows: of its pixels inside the image
  explicit Tile(const Call &c, int64_t t) : index(t) {
    int64_t across = (c.width + TILE - 1) / TILE;
    x0 = t % across * TILE, y0 = t / across * TILE;
    cols = std::min<int64_t>(TILE, c.width - x0), rows = std::min<int64_t>(TILE, c.height - y0);
  }
};
// Position in block order of a pixel of the tile.
static inline int place(int x, int y) { return (y / 4 * 4 + x / 4) * BLOCK_PX + y % 4 * 4 + x % 4; }

struct Pattern {
  alignas(64) float px[BLOCK_PX], py[BLOCK_PX], bx[BLOCKS], by[BLOCKS];
  Pattern() {
    for (int i = 0; i < 16; i++) px[i] = i % 4, py[i] = i / 4, bx[i] = i % 4 * 4, by[i] = i / 4 * 4;
  }
};
static const Pattern pattern;
static inline vf at(const float *a) { return *(const vf *)a; }
static inline vf &at(float *a) { return *(vf *)a; }

// 1 / a for normal numbers, to the last bit or so.
static inline vf reciprocal(vf a) {
#if VL == 16 && defined(__AVX512F__)
  vf r = (vf)_mm512_rcp14_ps((__m512)a);
  return r + r * (1 - a * r);  // one Newton step doubles the 14 bits
#else
  return 1 / a;
#endif
}

// Lane l: l has bit H ? b[l] + b[l ^ H] : a[l] + a[l ^ H].
template <int H>
__attribute__((always_inline)) static inline vf fold(vf a, vf b) {
  vi own, other;
  for (int l = 0; l < VL; l++) own[l] = l + (l & H ? VL : 0), other[l] = own[l] ^ H;
#if defined(__clang__)
  vf r;
  for (int l = 0; l < VL; l++) r[l] = l & H ? b[l] + b[l ^ H] : a[l] + a[l ^ H];
  return r;
#else
  return __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, other);
#endif
}
// Lane l: the sum over all lanes of rows[l].
template <int H>
__attribute__((always_inline)) static inline vf row_sums(const vf *rows) {
  if constexpr (H == 0)
    return rows[0];
  else
    return fold<H>(row_sums<H / 2>(rows), row_sums<H / 2>(rows + H));
}

// A splat seen from a tile: u and v over the first block, and their steps to each block.
struct Local {
  vf u[PARTS], v[PARTS];
  alignas(64) float to_u[BLOCKS], to_v[BLOCKS];
  float p, pk, q, log2_opacity;
  Local(const Splat &s, const Tile &t) {
    double dx = t.x0 + 0.5 - s.x, dy = t.y0 + 0.5 - s.y;
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

template <int CH>
static void render_tile(const Call &c, const Tile &tile) {
  alignas(64) float t[256], color[CH][256] = {};
  alignas(64) int32_t last[256];
  // Pixels that are full, and those outside the image, have t < 0.
  for (int i = 0; i < 256; i++) t[i] = -1, last[i] = -1;
  for (int y = 0; y < tile.rows; y++)
    for (int x = 0; x < tile.cols; x++) t[place(x, y)] = 1;
  int32_t begin = c.tile_start[tile.index], end = c.tile_start[tile.index + 1];
  unsigned alive = 0xffff;
  int32_t contributing = 0;
  for (int32_t k = begin; k < end; k++) {
    if ((k - begin) % 32 == 0) {
      for (int b = 0; b < BLOCKS; b++) {
        unsigned open = 0;
        for (int i = 0; i < PARTS; i++) open |= bits(at(t + b * 16 + i * VL) > 0);
        if (!open) alive &= ~(1u << b);
      }
      if (!alive) {
        std::memset(c.touched + k, 0, 2 * (end - k));
        break;
      }
    }
    if (k + 8 < end) __builtin_prefetch(&c.splats[c.pair[k + 8].splat]);
    const Splat &s = c.splats[c.pair[k].splat];
    Local g(s, tile);
    unsigned touched = 0;
    for (unsigned todo = g.blocks() & alive; todo; todo &= todo - 1) {
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
        for (int ch = 0; ch < CH; ch++) at(color[ch] + at0) += s.feature[ch] * w;
        t1 = ok ? t1 : t0;
        at(t + at0) = full ? (vf)((vi)t1 | INT32_MIN) : t1;
        vi &l = *(vi *)(last + at0);
        l = ok ? k - (vi){} : l;
        unsigned pixels = bits(ok);
        touched |= (pixels != 0) << b;
        contributing += __builtin_popcount(pixels);
      }
    }
    c.touched[k] = touched;
  }
  c.contributing[tile.index] = contributing;
  for (int i = 0; i < 256; i++) t[i] = std::fabs(t[i]);
  std::memcpy(c.transmittance + tile.index * 256, t, sizeof t);
  std::memcpy(c.last + tile.index * 256, last, sizeof last);
  for (int y = 0; y < tile.rows; y++)
    for (int x = 0; x < tile.cols; x++) {
      int64_t pixel = (tile.y0 + y) * c.width + tile.x0 + x;
      int i = place(x, y);
      for (int ch = 0; ch < CH; ch++)
        c.image[pixel * CH + ch] = color[ch][i] + (c.background ? t[i] * c.background[ch] : 0);
      c.alpha[pixel] = 1 - t[i];
    }
}

// The way back, from the last pair to the first: t is divided out again, `rest` is what lies behind the pair times the
// image gradient.
template <int CH>
static void backward_tile(const Call &c, const Tile &tile) {
  alignas(64) float t[256], rest[256] = {}, grad[CH][256] = {};
  alignas(64) int32_t last[256];
  double g_background[4] = {};
  std::memcpy(t, c.transmittance + tile.index * 256, sizeof t);
  std::memcpy(last, c.last + tile.index * 256, sizeof last);
  for (int y = 0; y < tile.rows; y++)
    for (int x = 0; x < tile.cols; x++) {
      int64_t pixel = (tile.y0 + y) * c.width + tile.x0 + x;
      int i = place(x, y);
      float behind = -c.g_alpha[pixel];
      for (int ch = 0; ch < CH; ch++) {
        grad[ch][i] = c.g_image[pixel * CH + ch];
        if (c.background) {
          behind += c.background[ch] * grad[ch][i];
          g_background[ch] += t[i] * grad[ch][i];
        }
      }
      rest[i] = t[i] * behind;
    }
  std::memcpy(c.g_background + tile.index * 4, g_background, sizeof g_background);
  int32_t begin = c.tile_start[tile.index], end = c.tile_start[tile.index + 1];
  for (int32_t k = end - 1; k >= begin; k--) {
    if (k - 8 >= begin) __builtin_prefetch(&c.splats[c.pair[k - 8].splat]);
    unsigned todo = c.touched[k];
    c.slot_used[c.pair[k].slot] = todo != 0;
    if (!todo) continue;
    const Splat &s = c.splats[c.pair[k].splat];
    Local g(s, tile);
    vf sum[SLOT] = {};
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
        for (int ch = 0; ch < CH; ch++) cg += s.feature[ch] * at(grad[ch] + at0);
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
    float *slot = c.slots + (int64_t)c.pair[k].slot * SLOT;
    for (int i = 0; i < PARTS; i++) at(slot + i * VL) = row_sums<VL / 2>(sum + i * VL);
  }
}

template <int CH>
static void over_tiles(const Call &c, bool back) {
  int64_t tiles = ((c.width + TILE - 1) / TILE) * ((c.height + TILE - 1) / TILE);
#pragma omp parallel for schedule(dynamic, 4) num_threads(c.threads)
  for (int64_t t = 0; t < tiles; t++) back ? backward_tile<CH>(c, Tile(c, t)) : render_tile<CH>(c, Tile(c, t));
}
static void all_tiles(const Call &c, bool back) {
  c.channels == 1 ? over_tiles<1>(c, back) : c.channels == 3 ? over_tiles<3>(c, back) : over_tiles<4>(c, back);
}

extern "C" void convoy_render(Call *c) {
  sort_pairs(*c);
  all_tiles(*c, false);
}

// --------------------------------------------------------------------------------------- from sums back to the inputs

static inline void store(float *out, int64_t i, int64_t n, int stride, int column, vd value) {
  for (int l = 0; l < VD && i + l < n; l++) out[(i + l) * stride + column] = (float)value[l];
}

// Sums of a Gaussian over its tiles, in the order of its slots. False if it touched no pixel.
static bool gather(const Call &c, int64_t i, double *sum) {
  bool any = false;
  int64_t first = c.boxes[i].first_slot, end = first + area(c.boxes[i]);
  for (int j = 0; j < SLOT; j++) sum[j] = 0;
  for (int64_t k = first; k < end; k++)
    if (c.slot_used[k]) {
      any = true;
      for (int j = 0; j < 6 + c.channels; j++) sum[j] += c.slots[k * SLOT + j];
    }
  return any;
}

static void backward_lanes(const Call &c, int64_t i, vd *g_view) {
  vd sum[SLOT];
  vl used;
  for (int l = 0; l < VD; l++) {
    double s[SLOT] = {};
    used[l] = i + l < c.n && gather(c, i + l, s) ? -1 : 0;
    for (int j = 0; j < SLOT; j++) sum[j][l] = s[j];
  }
  auto put = [&](float *out, int stride, int column, vd v) { store(out, i, c.n, stride, column, used ? v : (vd){}); };
  int colors = c.channels - c.depth;
  for (int j = 0; j < colors; j++) put(c.g_colors, colors, j, sum[6 + j]);
  put(c.g_opacities, 1, 0, -sum[0] / lanes(c.opacities, i, c.n, 1, 0));

  Projected o = project_lanes(c, i);
  vd p = o.p * BASE2, q = o.q * BASE2;
  V3 r = o.m0 - o.m1 * o.k;
  V3 g_m0 = (r * (p * p * sum[3]) + o.m1 * (p * q * sum[4])) * splatd(-1);
  V3 g_m1 = (g_m0 * o.k + o.m1 * (q * q * sum[5]) + r * (p * q * sum[4])) * splatd(-1);
  V3 g_a0 = {}, g_a1 = {}, g_column[3];
  vd scale[3] = {o.scale.x, o.scale.y, o.scale.z}, g0[3] = {g_m0.x, g_m0.y, g_m0.z}, g1[3] = {g_m1.x, g_m1.y, g_m1.z};
  for (int j = 0; j < 3; j++) {
    V3 back = o.a0 * g0[j] + o.a1 * g1[j];
    put(c.g_scales, 3, j, dot(back, o.column[j]));
    g_column[j] = back * scale[j];
    g_a0 = g_a0 + o.column[j] * (g0[j] * scale[j]);
    g_a1 = g_a1 + o.column[j] * (g1[j] * scale[j]);
  }

  vd x = o.quat_xyz.x, y = o.quat_xyz.y, z = o.quat_xyz.z, w = o.quat_w;
  V3 *g = g_column;  // g[column].row
  vd gw = 2 * (x * (g[1].z - g[2].y) + y * (g[2].x - g[0].z) + z * (g[0].y - g[1].x));
  vd gx = 2 * (y * (g[1].x + g[0].y) + z * (g[2].x + g[0].z) + w * (g[1].z - g[2].y) - 2 * x * (g[1].y + g[2].z));
  vd gy = 2 * (x * (g[1].x + g[0].y) + z * (g[2].y + g[1].z) + w * (g[2].x - g[0].z) - 2 * y * (g[0].x + g[2].z));
  vd gz = 2 * (x * (g[2].x + g[0].z) + y * (g[2].y + g[1].z) + w * (g[0].y - g[1].x) - 2 * z * (g[0].x + g[1].y));
  vd along = gw * w + gx * x + gy * y + gz * z, inverse = 1 / o.quat_norm;
  put(c.g_quats, 4, 0, (gw - w * along) * inverse);
  put(c.g_quats, 4, 1, (gx - x * along) * inverse);
  put(c.g_quats, 4, 2, (gy - y * along) * inverse);
  put(c.g_quats, 4, 3, (gz - z * along) * inverse);

  const double *view = c.view;
  V3 w2 = {splatd(view[8]), splatd(view[9]), splatd(view[10])};
  vd rz = 1 / o.point.z, fx = c.fx * rz, fy = c.fy * rz, zero = {};
  vd g_x = -p * sum[1], g_y = p * o.k * sum[1] - q * sum[2];  // of the centre in the image
  vd g_rx = o.free_x ? -fx * dot(w2, g_a0) : zero, g_ry = o.free_y ? -fy * dot(w2, g_a1) : zero;
  V3 g_point = {fx * g_x + g_rx * rz, fy * g_y + g_ry * rz, zero};
  g_point.z = -rz * (dot(o.a0, g_a0) + dot(o.a1, g_a1) + g_point.x * o.point.x + g_point.y * o.point.y);
  if (c.depth) g_point.z += sum[6 + colors];
  for (int j = 0; j < 3; j++)
    put(c.g_means, 3, j, view[j] * g_point.x + view[4 + j] * g_point.y + view[8 + j] * g_point.z);

  V3 rows[3] = {g_a0 * fx, g_a1 * fy, (g_a0 * (fx * o.ratio_x) + g_a1 * (fy * o.ratio_y)) * splatd(-1)};
  vd moved[3] = {g_point.x, g_point.y, g_point.z};
  for (int j = 0; j < 3; j++) {
    V3 row = rows[j] + o.mean * moved[j];
    vd of_row[4] = {row.x, row.y, row.z, moved[j]};
    for (int k = 0; k < 4; k++) g_view[4 * j + k] += used ? of_row[k] : zero;
  }
}

extern "C" void convoy_backward(Call *call) {
  const Call &c = *call;
  all_tiles(c, true);
  int64_t chunks = (c.n + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(c.threads)
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    vd g_view[12] = {};
    for (int64_t i = chunk * CHUNK; i < std::min(c.n, (chunk + 1) * CHUNK); i += VD) backward_lanes(c, i, g_view);
    for (int j = 0; j < 12; j++) {
      double total = 0;
      for (int l = 0; l < VD; l++) total += g_view[j][l];
      c.g_view[chunk * 12 + j] = total;
    }
  }
}

extern "C" int convoy_vector_floats() { return VL; }

// Multiply-adds on `rounds` x 12 vectors: the benchmark times it to know what a core can do.
extern "C" float convoy_fma(int64_t rounds) {
  vf a[12], x = splatf(0.999f), y = splatf(0.001f);
  for (int j = 0; j < 12; j++) a[j] = splatf(j);
  for (int64_t i = 0; i < rounds; i++) {
    for (int j = 0; j < 12; j++) a[j] = a[j] * x + y;
    __asm__ volatile("" : : : "memory");
  }
  float total = 0;
  for (int j = 0; j < 12; j++) total += a[j][0];
  return total;
}
