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
#include "blend.hpp"
#include "gradients.hpp"
#include "loss.hpp"
#include "tiles.hpp"

// Projects all Gaussians, numbers their slots and returns the number of pairs (splat, tile).
extern "C" int64_t convoy_project(Call *call) {
  const Call &c = *call;
#pragma omp parallel for schedule(static) num_threads(c.threads)
  for (int64_t i = 0; i < c.n; i += VD) {
    Projected o = project_lanes(c, i);
    for (int l = 0; l < VD && i + l < c.n; l++) store_splat(c, o, i + l, l);
    if (c.sh_degree >= 0) color_lanes(c, o.mean, i);
  }
  int64_t pairs = 0;
  for (int64_t i = 0; i < c.n; i++) {
    c.boxes[i].first_slot = (int32_t)pairs;
    pairs += area(c.boxes[i]);
  }
  return pairs;
}

extern "C" void convoy_render(Call *c) {
  sort_pairs(*c);
  all_tiles(*c, false);
}

extern "C" void convoy_backward(Call *c) {
  all_tiles(*c, true);
  gather_gradients(*c);
}

extern "C" void convoy_photometric(const Photometric *c) { photometric(*c); }

extern "C" int convoy_vector_floats() { return VL; }

// Sizes of what Python mirrors.
extern "C" int64_t convoy_call_bytes() { return sizeof(Call); }
extern "C" int64_t convoy_photometric_bytes() { return sizeof(Photometric); }
extern "C" int64_t convoy_splat_bytes() { return sizeof(Splat); }

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
