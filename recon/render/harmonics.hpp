// Colours from spherical harmonics up to degree 3, there and back. Order and signs are those of recon/spherical.py.
#pragma once
#include <cstring>

#include "projection.hpp"

constexpr int TERMS = 16;

// √(n / (d π)), what the constants of the bands are made of.
static inline double over_pi(double n, double d) { return std::sqrt(n / (d * 3.14159265358979323846)); }
static const double Y0 = over_pi(1, 4), Y1 = over_pi(3, 4);
static const double Y2A = over_pi(15, 4), Y2B = over_pi(5, 16), Y2C = over_pi(15, 16);
static const double Y3A = over_pi(35, 32), Y3B = over_pi(105, 4), Y3C = over_pi(21, 32), Y3D = over_pi(7, 16),
                    Y3E = over_pi(105, 16);

static inline int terms(const Call &c) { return (c.sh_degree + 1) * (c.sh_degree + 1); }

// From the camera's centre to VD Gaussians; its length is not below 1e-12.
struct Ray {
  V3 direction;
  vd inverse_length;
};
static inline Ray ray_to(const Call &c, V3 mean) {
  V3 r = mean - V3{splatd(c.eye[0]), splatd(c.eye[1]), splatd(c.eye[2])};
  vd length = root(dot(r, r));
  vd inverse = 1 / (length < 1e-12 ? splatd(1e-12) : length);
  return {r * inverse, inverse};
}

static inline void harmonics(V3 direction, int degree, vd *basis) {
  vd x = direction.x, y = direction.y, z = direction.z;
  basis[0] = splatd(Y0);
  if (degree < 1) return;
  basis[1] = -Y1 * y, basis[2] = Y1 * z, basis[3] = -Y1 * x;
  if (degree < 2) return;
  vd xx = x * x, yy = y * y, zz = z * z;
  basis[4] = Y2A * x * y, basis[5] = -Y2A * y * z, basis[6] = Y2B * (2 * zz - xx - yy);
  basis[7] = -Y2A * x * z, basis[8] = Y2C * (xx - yy);
  if (degree < 3) return;
  basis[9] = -Y3A * y * (3 * xx - yy), basis[10] = Y3B * x * y * z, basis[11] = -Y3C * y * (4 * zz - xx - yy);
  basis[12] = Y3D * z * (2 * zz - 3 * xx - 3 * yy), basis[13] = -Y3C * x * (4 * zz - xx - yy);
  basis[14] = Y3E * z * (xx - yy), basis[15] = -Y3A * x * (xx - 3 * yy);
}

// Gradient by the direction of the sum of h[k] times function k.
static inline V3 harmonics_gradient(V3 direction, int degree, const vd *h) {
  vd x = direction.x, y = direction.y, z = direction.z;
  V3 g = {};
  if (degree < 1) return g;
  g = {-Y1 * h[3], -Y1 * h[1], Y1 * h[2]};
  if (degree < 2) return g;
  g.x += Y2A * (y * h[4] - z * h[7]) + 2 * x * (Y2C * h[8] - Y2B * h[6]);
  g.y += Y2A * (x * h[4] - z * h[5]) - 2 * y * (Y2C * h[8] + Y2B * h[6]);
  g.z += 4 * Y2B * z * h[6] - Y2A * (y * h[5] + x * h[7]);
  if (degree < 3) return g;
  vd xx = x * x, yy = y * y, zz = z * z, xy = x * y, xz = x * z, yz = y * z;
  g.x += Y3B * yz * h[10] - Y3A * (6 * xy * h[9] + 3 * (xx - yy) * h[15]) +
         Y3C * (2 * xy * h[11] - (4 * zz - 3 * xx - yy) * h[13]) + 2 * xz * (Y3E * h[14] - 3 * Y3D * h[12]);
  g.y += Y3B * xz * h[10] - Y3A * (3 * (xx - yy) * h[9] - 6 * xy * h[15]) +
         Y3C * (2 * xy * h[13] - (4 * zz - xx - 3 * yy) * h[11]) - 2 * yz * (Y3E * h[14] + 3 * Y3D * h[12]);
  g.z += Y3B * xy * h[10] - 8 * Y3C * (yz * h[11] + xz * h[13]) + 3 * Y3D * (2 * zz - xx - yy) * h[12] +
         Y3E * (xx - yy) * h[14];
  return g;
}

// Fills the colours of those of VD Gaussians that are drawn: ½ + the sum, not below 0. A colour that was cut is -0, by
// which the way back knows it; one that is 0 up to rounding was not, so that what starts black can still learn.
static inline void color_lanes(const Call &c, V3 mean, int64_t i) {
  vd basis[TERMS];
  harmonics(ray_to(c, mean).direction, c.sh_degree, basis);
  for (int l = 0; l < VD && i + l < c.n; l++) {
    if (!area(c.boxes[i + l])) continue;
    const float *sh = c.colors + (i + l) * c.coefficients * 3;
    float rgb[3] = {0.5f, 0.5f, 0.5f};
    for (int k = 0; k < terms(c); k++)
      for (int j = 0; j < 3; j++) rgb[j] += (float)basis[k][l] * sh[3 * k + j];
    for (int j = 0; j < 3; j++) c.splats[i + l].feature[j] = rgb[j] < -1e-6f ? -0.0f : std::max(rgb[j], 0.0f);
  }
}

// Gradients of the coefficients of VD Gaussians from those of their colours, rgb; returns that of the vector from the
// camera's centre to each.
static inline V3 color_gradient(const Call &c, V3 mean, int64_t i, vl used, const vd *rgb) {
  vd basis[TERMS], h[TERMS] = {};
  Ray ray = ray_to(c, mean);
  harmonics(ray.direction, c.sh_degree, basis);
  int count = terms(c);
  for (int l = 0; l < VD && i + l < c.n; l++) {
    int64_t first = (i + l) * c.coefficients * 3;
    float *out = c.g_colors + first;
    std::memset(out, 0, 12 * c.coefficients);
    if (!used[l]) continue;
    const float *sh = c.colors + first;
    float g[3];
    for (int j = 0; j < 3; j++) g[j] = std::signbit(c.splats[i + l].feature[j]) ? 0 : (float)rgb[j][l];
    for (int k = 0; k < count; k++) {
      for (int j = 0; j < 3; j++) out[3 * k + j] = (float)basis[k][l] * g[j];
      h[k][l] = sh[3 * k] * g[0] + sh[3 * k + 1] * g[1] + sh[3 * k + 2] * g[2];
    }
  }
  V3 g = harmonics_gradient(ray.direction, c.sh_degree, h), d = ray.direction;
  return (g - d * dot(d, g)) * ray.inverse_length;
}
