// From sums over pixels back to the inputs: VD Gaussians at a time, in double precision.
#pragma once
#include "harmonics.hpp"

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

// Those of `VD` Gaussians, one a lane, and which of them touched a pixel.
static inline vl gather_lanes(const Call &c, int64_t i, vd *sum) {
  vl used;
  for (int l = 0; l < VD; l++) {
    double s[SLOT] = {};
    used[l] = i + l < c.n && gather(c, i + l, s) ? -1 : 0;
    for (int j = 0; j < SLOT; j++) sum[j][l] = s[j];
  }
  return used;
}

// What the loss feels of the 2D covariance, on its way to scales, rotation and the rows of the affine camera.
struct Shape {
  V3 a0, a1, column[3];
  vd scale[3];
};

static inline Shape shape_gradient(const Projected &o, const vd *sum) {
  Shape g = {};
  vd p = o.p * BASE2, q = o.q * BASE2;
  V3 r = o.m0 - o.m1 * o.k;
  V3 g_m0 = (r * (p * p * sum[3]) + o.m1 * (p * q * sum[4])) * splatd(-1);
  V3 g_m1 = (g_m0 * o.k + o.m1 * (q * q * sum[5]) + r * (p * q * sum[4])) * splatd(-1);
  vd scale[3] = {o.scale.x, o.scale.y, o.scale.z}, g0[3] = {g_m0.x, g_m0.y, g_m0.z}, g1[3] = {g_m1.x, g_m1.y, g_m1.z};
  for (int j = 0; j < 3; j++) {
    V3 back = o.a0 * g0[j] + o.a1 * g1[j];
    g.scale[j] = dot(back, o.column[j]);
    g.column[j] = back * scale[j];
    g.a0 = g.a0 + o.column[j] * (g0[j] * scale[j]);
    g.a1 = g.a1 + o.column[j] * (g1[j] * scale[j]);
  }
  return g;
}

struct Quaternions {
  vd w, x, y, z;
};

// Of the quaternion before it is normalised; g[column] of the rotation.
static inline Quaternions quat_gradient(const Projected &o, const V3 *g) {
  vd x = o.quat_xyz.x, y = o.quat_xyz.y, z = o.quat_xyz.z, w = o.quat_w;
  vd gw = 2 * (x * (g[1].z - g[2].y) + y * (g[2].x - g[0].z) + z * (g[0].y - g[1].x));
  vd gx = 2 * (y * (g[1].x + g[0].y) + z * (g[2].x + g[0].z) + w * (g[1].z - g[2].y) - 2 * x * (g[1].y + g[2].z));
  vd gy = 2 * (x * (g[1].x + g[0].y) + z * (g[2].y + g[1].z) + w * (g[2].x - g[0].z) - 2 * y * (g[0].x + g[2].z));
  vd gz = 2 * (x * (g[2].x + g[0].z) + y * (g[2].y + g[1].z) + w * (g[0].y - g[1].x) - 2 * z * (g[0].x + g[1].y));
  vd along = gw * w + gx * x + gy * y + gz * z, inverse = 1 / o.quat_norm;
  return {(gw - w * along) * inverse, (gx - x * along) * inverse, (gy - y * along) * inverse,
          (gz - z * along) * inverse};
}

// Of the centre in the camera's axes.
static inline V3 point_gradient(const Call &c, const Projected &o, const Shape &g, const vd *sum) {
  const double *view = c.view;
  V3 w2 = {splatd(view[8]), splatd(view[9]), splatd(view[10])};
  vd p = o.p * BASE2, q = o.q * BASE2, rz = 1 / o.point.z, fx = c.fx * rz, fy = c.fy * rz, zero = {};
  vd g_x = -p * sum[1], g_y = p * o.k * sum[1] - q * sum[2];  // of the centre in the image
  vd g_rx = o.free_x ? -fx * dot(w2, g.a0) : zero, g_ry = o.free_y ? -fy * dot(w2, g.a1) : zero;
  V3 g_point = {fx * g_x + g_rx * rz, fy * g_y + g_ry * rz, zero};
  g_point.z = -rz * (dot(o.a0, g.a0) + dot(o.a1, g.a1) + g_point.x * o.point.x + g_point.y * o.point.y);
  if (c.depth) g_point.z += sum[6 + c.channels - c.depth];
  return g_point;
}

// Adds what VD Gaussians contribute to the gradient of the camera's pose, row by row.
static inline void add_view_gradient(const Call &c, const Projected &o, const Shape &g, V3 g_point, vl used, vd *sums) {
  vd rz = 1 / o.point.z, fx = c.fx * rz, fy = c.fy * rz, zero = {};
  V3 rows[3] = {g.a0 * fx, g.a1 * fy, (g.a0 * (fx * o.ratio_x) + g.a1 * (fy * o.ratio_y)) * splatd(-1)};
  vd moved[3] = {g_point.x, g_point.y, g_point.z};
  for (int j = 0; j < 3; j++) {
    V3 row = rows[j] + o.mean * moved[j];
    vd of_row[4] = {row.x, row.y, row.z, moved[j]};
    for (int k = 0; k < 4; k++) sums[4 * j + k] += used ? of_row[k] : zero;
  }
}

// Gradients of colours or coefficients; returns that of the vector from the eye and takes it off the eye's.
static inline V3 add_color_gradient(const Call &c, const Projected &o, int64_t i, vl used, const vd *sum, vd *g_eye) {
  int colors = c.channels - c.depth;
  if (c.sh_degree < 0) {
    for (int j = 0; j < colors; j++) store(c.g_colors, i, c.n, colors, j, used ? sum[6 + j] : (vd){});
    return V3{{}, {}, {}};
  }
  V3 g = color_gradient(c, o.mean, i, used, sum + 6);
  g_eye[0] -= used ? g.x : (vd){}, g_eye[1] -= used ? g.y : (vd){}, g_eye[2] -= used ? g.z : (vd){};
  return g;
}

static inline void backward_lanes(const Call &c, int64_t i, vd *g_view) {
  vd sum[SLOT];
  vl used = gather_lanes(c, i, sum);
  auto put = [&](float *out, int stride, int column, vd v) { store(out, i, c.n, stride, column, used ? v : (vd){}); };
  put(c.g_opacities, 1, 0, -sum[0] / lanes(c.opacities, i, c.n, 1, 0));

  Projected o = project_lanes(c, i);
  Shape g = shape_gradient(o, sum);
  for (int j = 0; j < 3; j++) put(c.g_scales, 3, j, g.scale[j]);
  Quaternions quat = quat_gradient(o, g.column);
  put(c.g_quats, 4, 0, quat.w), put(c.g_quats, 4, 1, quat.x);
  put(c.g_quats, 4, 2, quat.y), put(c.g_quats, 4, 3, quat.z);
  V3 point = point_gradient(c, o, g, sum);
  V3 ray = add_color_gradient(c, o, i, used, sum, g_view + 12);
  vd along_ray[3] = {ray.x, ray.y, ray.z};
  for (int j = 0; j < 3; j++)
    put(c.g_means, 3, j,
        c.view[j] * point.x + c.view[4 + j] * point.y + c.view[8 + j] * point.z + along_ray[j]);
  add_view_gradient(c, o, g, point, used, g_view);
}

// Gradients of all inputs from the slots that `all_tiles` filled. The pose's are summed by chunks of fixed size.
static void gather_gradients(const Call &c) {
  int64_t chunks = (c.n + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(c.threads)
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    vd g_view[15] = {};
    for (int64_t i = chunk * CHUNK; i < std::min(c.n, (chunk + 1) * CHUNK); i += VD) backward_lanes(c, i, g_view);
    for (int j = 0; j < 15; j++) c.g_view[chunk * 15 + j] = total(g_view[j]);
  }
}
