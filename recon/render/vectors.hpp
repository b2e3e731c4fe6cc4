// Vectors of VL floats or VL / 2 doubles by the vector extensions of GCC and Clang, and what the parts share of them.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef VL
#define VL 4  // floats in a vector
#endif
constexpr int VD = VL / 2;
typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef double vd __attribute__((vector_size(4 * VL)));
typedef int64_t vl __attribute__((vector_size(4 * VL)));
typedef float unaligned_vf __attribute__((vector_size(4 * VL), aligned(4)));

static inline vd splatd(double x) { return x - (vd){}; }
static inline vf splatf(float x) { return x - (vf){}; }
static inline vf at(const float *a) { return *(const vf *)a; }
static inline vf &at(float *a) { return *(vf *)a; }

// ------------------------------------------------------------------------------------------------- doubles

static inline vd root(vd a) {
  for (int l = 0; l < VD; l++) a[l] = __builtin_sqrt(a[l]);
  return a;
}
static inline vd clamp(vd a, double low, double high) {
  a = a < low ? splatd(low) : a;
  return a > high ? splatd(high) : a;
}
static inline double total(vd a) {
  double sum = 0;
  for (int l = 0; l < VD; l++) sum += a[l];
  return sum;
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

static inline void store(float *out, int64_t i, int64_t n, int stride, int column, vd value) {
  for (int l = 0; l < VD && i + l < n; l++) out[(i + l) * stride + column] = (float)value[l];
}

// ------------------------------------------------------------------------------------------------- floats

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

static inline double total(vf a) {
  double sum = 0;
  for (int l = 0; l < VL; l++) sum += a[l];
  return sum;
}

// The nearest whole number, for t <= 0.
static inline vf nearest(vf t) {
#if VL == 16 && defined(__AVX512F__)
  return (vf)_mm512_roundscale_ps((__m512)t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  return __builtin_convertvector(__builtin_convertvector(t - 0.5f, vi), vf);
#endif
}
static inline vf times_power_of_2(vf a, vf whole) {
#if VL == 16 && defined(__AVX512F__)
  return (vf)_mm512_scalef_ps((__m512)a, (__m512)whole);
#else
  return (vf)((vi)a + (__builtin_convertvector(whole, vi) << 23));
#endif
}

// 2^t for -126 <= t <= 0: polynomial of the fraction, then the exponent. Relative error 1e-7; lanes below -126 hold
// anything.
static inline vf exp2_(vf t) {
  vf whole = nearest(t), f = t - whole;
  vf r = 0.0013400432653725147f * f + 0.009676037356257439f;
  r = r * f + 0.05550327152013779f;
  r = r * f + 0.2402210682630539f;
  r = r * f + 0.6931471824645996f;
  r = r * f + 1.0000001192092896f;
  return times_power_of_2(r, whole);
}

// Adds the lanes of a, and s times them, to VL doubles each.
static inline void add_in_double(vf a, double s, double *sum, double *sum_of_scaled) {
  typedef float half __attribute__((vector_size(2 * VL)));
  union {
    vf whole;
    half part[2];
  } of = {a};
  for (int i = 0; i < 2; i++) {
    vd wide = __builtin_convertvector(of.part[i], vd);
    *(vd *)(sum + i * VD) += wide, *(vd *)(sum_of_scaled + i * VD) += s * wide;
  }
}

// 1 / a for normal numbers, to the last bit or so.
static inline vf reciprocal(vf a) {
#if VL == 16 && defined(__AVX512F__)
  vf r = (vf)_mm512_rcp14_ps((__m512)a);
  return r + r * (1 - a * r);  // one Newton step doubles the 14 bits
#else
  return 1 / a;
#endif
}

// Lane l: a[l] + a[l ^ H].
template <int H>
__attribute__((always_inline)) static inline vf fold(vf a) {
#if defined(__clang__)
  vf r;
  for (int l = 0; l < VL; l++) r[l] = a[l] + a[l ^ H];
  return r;
#else
  vi other;
  for (int l = 0; l < VL; l++) other[l] = l ^ H;
  return a + __builtin_shuffle(a, other);
#endif
}
// Lane l: l has bit H ? b[l] + b[l ^ H] : a[l] + a[l ^ H].
template <int H>
__attribute__((always_inline)) static inline vf fold(vf a, vf b) {
#if defined(__clang__)
  vf r;
  for (int l = 0; l < VL; l++) r[l] = l & H ? b[l] + b[l ^ H] : a[l] + a[l ^ H];
  return r;
#else
  vi own, other;
  for (int l = 0; l < VL; l++) own[l] = l + (l & H ? VL : 0), other[l] = own[l] ^ H;
  return __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, other);
#endif
}
// Lane l: the sum over all lanes of rows[l], for l < N; N <= 2 H rows (one, if H is 0).
template <int H, int N>
__attribute__((always_inline)) static inline vf row_sums(const vf *rows) {
  if constexpr (H == 0)
    return rows[0];
  else if constexpr (N <= H)
    return fold<H>(row_sums<H / 2, N>(rows));
  else
    return fold<H>(row_sums<H / 2, H>(rows), row_sums<H / 2, N - H>(rows + H));
}
// The sums over the lanes of N vectors; what follows them up to a whole vector holds anything.
template <int N>
__attribute__((always_inline)) static inline void store_sums(float *out, const vf *rows) {
  at(out) = row_sums<VL / 2, std::min(N, VL)>(rows);
  if constexpr (N > VL) store_sums<N - VL>(out + VL, rows + VL);
}
