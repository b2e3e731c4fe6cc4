// (1 - λ) L1 + λ (1 - SSIM) of images [h, w, c] and its gradient; see recon/ssim.py for the definition.
//
// One pass over the rows. The window is separable: rows are summed from above and below first, then along, c floats
// from pixel to pixel. SSIM = a1 a2 / (b1 b2) is a function of the blurred x, x² + y² and x y; its derivatives by these
// three wait in rings of rows until the blur's adjoint, which is the blur itself, has all the rows that it needs.
#pragma once
#include <cstring>
#include <utility>
#include <vector>

#include "vectors.hpp"

constexpr int REACH = 5, RING = 2 * REACH + 1;
constexpr float SSIM_C1 = 0.01f * 0.01f, SSIM_C2 = 0.03f * 0.03f;

// Mirrored field by field in photometric.py.
struct Photometric {
  int64_t images, height, width, channels, threads;
  double dssim_weight;
  const float *image, *reference;
  const uint8_t *mask;  // [images, h, w], or none; where it is 0 the reference stands in for the image
  float *gradient;      // or none
  double *l1, *dssim;   // [images, h]: sums over rows
  double taps[REACH + 1];  // from the middle outwards
};

// Works through rows [first, end) of one image.
class Band {
  const Photometric &c;
  const int64_t image, values, pitch, margin;  // values: in a row; margin: zeros to both sides of it
  float tap[REACH + 1], share;
  std::vector<float> memory;
  float *zero, *counted[RING], *x[RING], *y[RING], *by_mean[RING], *by_square[RING], *by_product[RING], *sums[4];

 public:
  Band(const Photometric &c, int64_t image)
      : c(c), image(image), values(c.width * c.channels), pitch(padded(values) + 2 * padded(REACH * c.channels)),
        margin(padded(REACH * c.channels)), memory((1 + 6 * RING + 4) * pitch + VL) {
    for (int t = 0; t <= REACH; t++) tap[t] = (float)c.taps[t];
    share = (float)(-c.dssim_weight / (double)(c.images * c.height * values));
    float *next = memory.data() + margin;
    while ((uintptr_t)next % (4 * VL)) next++;
    auto row = [&] { return std::exchange(next, next + pitch); };
    zero = row();
    for (int i = 0; i < RING; i++)
      counted[i] = row(), x[i] = row(), y[i] = row(), by_mean[i] = row(), by_square[i] = row(), by_product[i] = row();
    for (float *&sum : sums) sum = row();
  }

  void run(int64_t first, int64_t end) {
    int64_t around = c.gradient ? REACH : 0, loaded = std::max<int64_t>(0, first - around - REACH);
    for (int64_t r = first - around; r < end + around; r++) {
      for (; loaded <= std::min(r + REACH, c.height - 1); loaded++) load(loaded);
      if (r >= 0 && r < c.height) {
        add_rows(r);
        compare(r, r >= first && r < end);
      }
      if (c.gradient && r - REACH >= first) differentiate(r - REACH);
    }
  }

 private:
  static int64_t padded(int64_t count) { return (count + VL - 1) / VL * VL; }

  void load(int64_t r) {
    int64_t from = (image * c.height + r) * values;
    float *into = x[r % RING], *other = y[r % RING], *counts = counted[r % RING];
    std::memcpy(into, c.image + from, 4 * values);
    std::memcpy(other, c.reference + from, 4 * values);
    if (!c.mask) return;
    const uint8_t *mask = c.mask + (image * c.height + r) * c.width;
    for (int64_t i = 0; i < c.width; i++)
      for (int64_t j = 0; j < c.channels; j++) counts[i * c.channels + j] = mask[i];
    for (int64_t i = 0; i < values; i += VL) at(into + i) = at(counts + i) > 0 ? at(into + i) : at(other + i);
  }

  // Rows r - REACH … r + REACH of a ring, zeros outside the image.
  void around(float *const *ring, int64_t r, const float **rows) const {
    for (int64_t t = -REACH; t <= REACH; t++)
      rows[REACH + t] = r + t < 0 || r + t >= c.height ? zero : ring[(r + t) % RING];
  }

  vf across(const float *const *rows, int64_t i) const {
    vf sum = tap[0] * at(rows[REACH] + i);
    for (int t = 1; t <= REACH; t++) sum += tap[t] * (at(rows[REACH - t] + i) + at(rows[REACH + t] + i));
    return sum;
  }

  vf along(const float *row, int64_t i) const {
    vf sum = tap[0] * at(row + i);
    for (int t = 1; t <= REACH; t++)
      sum += tap[t] * (vf)(*(const unaligned_vf *)(row + i - t * c.channels) +
                           *(const unaligned_vf *)(row + i + t * c.channels));
    return sum;
  }

  // Sums of x, y, x² + y² and x y over the rows around row r.
  void add_rows(int64_t r) {
    const float *xs[RING], *ys[RING];
    around(x, r, xs), around(y, r, ys);
    for (int64_t i = 0; i < values; i += VL) {
      vf a = at(xs[REACH] + i), b = at(ys[REACH] + i);
      vf sum_x = tap[0] * a, sum_y = tap[0] * b, squares = tap[0] * (a * a + b * b), products = tap[0] * (a * b);
      for (int t = 1; t <= REACH; t++) {
        vf a0 = at(xs[REACH - t] + i), a1 = at(xs[REACH + t] + i);
        vf b0 = at(ys[REACH - t] + i), b1 = at(ys[REACH + t] + i);
        sum_x += tap[t] * (a0 + a1), sum_y += tap[t] * (b0 + b1);
        squares += tap[t] * (a0 * a0 + a1 * a1 + (b0 * b0 + b1 * b1)), products += tap[t] * (a0 * b0 + a1 * b1);
      }
      at(sums[0] + i) = sum_x, at(sums[1] + i) = sum_y, at(sums[2] + i) = squares, at(sums[3] + i) = products;
    }
  }

  // L1 and SSIM of row r, and the derivatives by the blurred quantities.
  void compare(int64_t r, bool counts) {
    int64_t slot = r % RING;
    vf l1 = {}, dssim = {};
    for (int64_t i = 0; i < values; i += VL) {
      vf mean_x = along(sums[0], i), mean_y = along(sums[1], i);
      vf product = mean_x * mean_y, squares = mean_x * mean_x + mean_y * mean_y;
      vf a1 = 2 * product + SSIM_C1, b1 = squares + SSIM_C1;
      vf a2 = 2 * (along(sums[3], i) - product) + SSIM_C2, b2 = along(sums[2], i) - squares + SSIM_C2;
      vf scale = 1 / (b1 * b2), ssim = a1 * a2 * scale, difference = at(x[slot] + i) - at(y[slot] + i);
      vi inside = lane_numbers() < (int32_t)std::min<int64_t>(values - i, VL);
      l1 += difference < 0 ? -difference : difference;
      dssim += inside ? 1 - ssim : splatf(0);
      vf weight = inside ? splatf(share) : splatf(0);
      at(by_mean[slot] + i) = weight * (2 * scale * (mean_y * (a2 - a1) + mean_x * ssim * (b1 - b2)));
      at(by_square[slot] + i) = -weight * ssim * b1 * scale;
      at(by_product[slot] + i) = 2 * weight * a1 * scale;
    }
    if (counts) c.l1[image * c.height + r] = total(l1), c.dssim[image * c.height + r] = total(dssim);
  }

  void differentiate(int64_t r) {
    const float *means[RING], *squares[RING], *products[RING];
    around(by_mean, r, means), around(by_square, r, squares), around(by_product, r, products);
    for (int64_t i = 0; i < values; i += VL)
      at(sums[0] + i) = across(means, i), at(sums[1] + i) = across(squares, i), at(sums[2] + i) = across(products, i);
    float step = (float)((1 - c.dssim_weight) / (double)(c.images * c.height * values));
    float *out = c.gradient + (image * c.height + r) * values;
    const float *xs = x[r % RING], *ys = y[r % RING], *counts = counted[r % RING];
    for (int64_t i = 0; i < values; i += VL) {
      vf a = at(xs + i), b = at(ys + i), slope = a > b ? splatf(step) : a < b ? splatf(-step) : splatf(0);
      vf g = slope + along(sums[0], i) + 2 * a * along(sums[1], i) + b * along(sums[2], i);
      if (c.mask) g = at(counts + i) > 0 ? g : splatf(0);
      std::memcpy(out + i, &g, 4 * std::min<int64_t>(values - i, VL));
    }
  }

  static vi lane_numbers() {
    vi lane;
    for (int l = 0; l < VL; l++) lane[l] = l;
    return lane;
  }
};

// Rows are cut into one band a thread: no value depends on where.
static void photometric(const Photometric &c) {
  int64_t bands = std::max<int64_t>(1, std::min(c.threads, c.height / (4 * REACH)));
#pragma omp parallel for schedule(static) num_threads(c.threads)
  for (int64_t j = 0; j < c.images * bands; j++) {
    int64_t band = j % bands;
    Band(c, j / bands).run(c.height * band / bands, c.height * (band + 1) / bands);
  }
}
