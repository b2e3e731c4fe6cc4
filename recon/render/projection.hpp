// Gaussians as one camera sees them: VD at a time, in double precision.
#pragma once
#include "call.hpp"

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

static inline void place_in_image(const Call &c, Projected &o) {
  const double *w = c.view;
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
  V3 w0 = {splatd(w[0]), splatd(w[1]), splatd(w[2])}, w1 = {splatd(w[4]), splatd(w[5]), splatd(w[6])},
     w2 = {splatd(w[8]), splatd(w[9]), splatd(w[10])};
  o.a0 = (w0 - w2 * o.ratio_x) * (c.fx * rz);
  o.a1 = (w1 - w2 * o.ratio_y) * (c.fy * rz);
}

static inline void rotate_axes(Projected &o, vd qw, vd qx, vd qy, vd qz) {
  o.quat_norm = root(qw * qw + qx * qx + qy * qy + qz * qz);
  o.quat_norm = o.quat_norm < 1e-12 ? splatd(1e-12) : o.quat_norm;
  vd s = 1 / o.quat_norm;
  qw *= s, qx *= s, qy *= s, qz *= s;
  o.quat_w = qw;
  o.quat_xyz = {qx, qy, qz};
  o.column[0] = {1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy + qw * qz), 2 * (qx * qz - qw * qy)};
  o.column[1] = {2 * (qx * qy - qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz + qw * qx)};
  o.column[2] = {2 * (qx * qz + qw * qy), 2 * (qy * qz - qw * qx), 1 - 2 * (qx * qx + qy * qy)};
}

static inline void invert_covariance(const Call &c, Projected &o) {
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
}

static inline Projected project_lanes(const Call &c, int64_t i) {
  Projected o;
  auto in = [&](const float *a, int stride, int column) { return lanes(a, i, c.n, stride, column); };
  o.mean = {in(c.means, 3, 0), in(c.means, 3, 1), in(c.means, 3, 2)};
  o.scale = {in(c.scales, 3, 0), in(c.scales, 3, 1), in(c.scales, 3, 2)};
  place_in_image(c, o);
  rotate_axes(o, in(c.quats, 4, 0), in(c.quats, 4, 1), in(c.quats, 4, 2), in(c.quats, 4, 3));
  invert_covariance(c, o);
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
    for (int j = 0; j < colors && c.sh_degree < 0; j++) s.feature[j] = c.colors[i * colors + j];
    if (c.depth) {
      s.feature[colors] = o.point.z[l];
      s.depth_rest = o.point.z[l] - s.feature[colors];
    }
    c.splats[i] = s;
  }
  c.boxes[i] = box;
}
