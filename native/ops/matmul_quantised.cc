// Products of quantised weights with rows in Q8 form.
//
// One definition for every instruction set, number of rows and tile range. For each output, groups of 32 inputs
// ascending, everything in float but the exact integer sums:
//   Q8_0, Q4_0, Q5_0   acc = fma(float(sum (q - bias) x), d * xs, acc)           bias 128, 8, 16
//   Q4_1, Q5_1         acc = fma(float(sum q x), d * xs, acc); acc = fma(m, xs * float(sum x), acc)
//   Q4_K, Q5_K         as Q4_1 with d = d * scale, m = -dmin * minimum (both exact in float)
//   Q6_K               for each half of the group: acc = fma(float(sum (q - 32) x), (d * scale) * xs, acc)
// where x are the row's integers and xs their scale.
#include "matmul.h"

namespace legato::LEGATO_ISA {
namespace {

// One group of one tile: its scales, and its weights as bytes.
template <Format F>
struct Group {
  static constexpr PackedLayout kLayout = packed_layout(F);
  static constexpr bool kFive = F == Format::Q5_0 || F == Format::Q5_1 || F == Format::Q5_K;
  static constexpr bool kSix = F == Format::Q6_K;
  static constexpr bool kBytes = F == Format::Q8_0;
  static constexpr bool kSuper = F == Format::Q4_K || F == Format::Q5_K;
  static constexpr bool kMinimum = kSuper || F == Format::Q4_1 || F == Format::Q5_1;
  static constexpr int kMaxWeight = kBytes ? 255 : kSix ? 63 : kFive ? 31 : 15;
  static constexpr int kBiasShift = kMinimum ? -1 : kBytes ? 7 : kSix ? 5 : kFive ? 4 : 3;
  using GroupSum = Sum<kMaxWeight, kBiasShift>;

  const uint8_t* quants;
  Vec scale, scale_high, minimum;
  Bytes plane;

  // part: which kWidth of the 16 outputs.
  void open(const uint8_t* tile, int64_t g, int part) {
    quants = tile + kLayout.quants_at(g) + part * (4 * kWidth);
    if constexpr (kFive) plane = Bytes::load(quants + 256);
  }

  // After the sums, which need the registers before.
  void open_scales(const uint8_t* tile, int64_t g, int part) {
    [[maybe_unused]] const uint8_t* record = tile + kLayout.scales_at(g);
    [[maybe_unused]] const int64_t sub = g % kLayout.unit_groups;
    const uint16_t* halves = (const uint16_t*)(tile + kLayout.d_at(g)) + part * kWidth;
    scale = Vec::load_f16(halves);
    if constexpr (kSix) {
      const uint8_t* fine = record + 32 + 32 * sub + part * kWidth;
      scale_high = scale * signed_bytes_to_float(fine + 16);
      scale = scale * signed_bytes_to_float(fine);
    } else if constexpr (kSuper) {
      const uint8_t* fine = record + 64 + 32 * sub + part * kWidth;
      scale = scale * bytes_to_float(fine);
      minimum = Vec::load_f16(halves + 16) * bytes_to_float(fine + 16);
    } else if constexpr (kMinimum) {
      minimum = Vec::load_f16(halves + 16);
    }
  }

  // Weights of inputs 8v .. 8v + 3 and 8v + 4 .. 8v + 7.
  template <int v>
  void weights(Bytes* low, Bytes* high) const {
    if constexpr (kBytes) {
      *low = Bytes::load(quants + 128 * v);
      *high = Bytes::load(quants + 128 * v + 64);
      return;
    }
    const Bytes both = Bytes::load(quants + 64 * v);
    *low = low_nibbles(both);
    *high = high_nibbles(both);
    if constexpr (kFive) {
      *low = with_bits<4 - 2 * v, 16>(*low, plane);
      *high = with_bits<3 - 2 * v, 16>(*high, plane);
    } else if constexpr (kSix) {
      const Bytes pairs = Bytes::load(quants + 256 + 64 * (v / 2));
      *low = with_bits<4 - 4 * (v % 2), 48>(*low, pairs);
      *high = with_bits<2 - 4 * (v % 2), 48>(*high, pairs);
    }
  }
};

// Weights that are needed later: so many bytes in every group; soon (near), or after other blocks' turns.
struct Fetch {
  const uint8_t* from;
  int64_t bytes;
  bool near;

  [[gnu::always_inline]] void next() {
    if (near) {
      for (int64_t b = 0; b < bytes; b += 64) fetch_soon(from + b);
    } else {
      for (int64_t b = 0; b < bytes; b += 64) fetch_later(from + b);
    }
    from += bytes;
  }
};

// A block's sums where there is a bias or outputs are missing.
[[gnu::noinline]] void write_some(const Vec* sums, int rows, int tiles, float* out, int64_t stride, const float* bias,
                                  bool accumulate, int64_t outputs) {
  for (int r = 0; r < rows; ++r) {
    for (int t = 0; t < tiles && t * kLanes < outputs; ++t) {
      write_lanes(sums[r * tiles + t], out + r * stride + t * kLanes, bias ? bias + t * kLanes : nullptr, accumulate,
                  kWidth, outputs - t * kLanes);
    }
  }
}

// R rows x T tiles in registers, over all groups.
template <Format F, int R, int T>
struct Block {
  using G = Group<F>;
  G group[T];
  typename G::GroupSum sum[T][R];
  Vec acc[T][R];
  const Q8Group* x[R];

  template <int v>
  [[gnu::always_inline]] void step() {
    Bytes low[T], high[T];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) group[t].template weights<v>(&low[t], &high[t]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Four four = broadcast_four(x[r]->values + 8 * v);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) sum[t][r].template dot<2 * v>(low[t], four);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Four four = broadcast_four(x[r]->values + 8 * v + 4);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) sum[t][r].template dot<2 * v + 1>(high[t], four);
    }
  }

  // The negated sum of the inputs of a group, or of one of its halves.
  template <int half>
  [[gnu::always_inline]] int32_t minus_sum(int r) const {
    if constexpr (!G::kSix) return x[r]->minus_sum;
    return half == 0 ? x[r]->minus_sum_low : x[r]->minus_sum - x[r]->minus_sum_low;
  }

  template <int half>
  [[gnu::always_inline]] void start() {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) sum[t][r].start(minus_sum<half>(r));
    }
  }

  template <int half>
  [[gnu::always_inline]] void scale() {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec xs = Vec::splat(x[r]->scale);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const Vec weight_scale = half == 0 ? group[t].scale : group[t].scale_high;
        acc[t][r] = fma(sum[t][r].finish(minus_sum<half>(r)), weight_scale * xs, acc[t][r]);
        if constexpr (G::kMinimum) acc[t][r] = fma(group[t].minimum, Vec::splat(x[r]->scaled_sum), acc[t][r]);
      }
    }
  }

  [[gnu::always_inline]] void open_scales(const uint8_t* tile, int64_t tile_bytes, int64_t g, int part) {
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) group[t].open_scales(tile + t * tile_bytes, g, part);
  }

  [[gnu::always_inline]] void run(const uint8_t* tile, int64_t tile_bytes, int64_t groups, int part,
                                  const uint8_t* rows, int64_t row_bytes, Fetch fetch) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      x[r] = (const Q8Group*)(rows + r * row_bytes);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) acc[t][r] = Vec::zero();
    }
    for (int64_t g = 0; g < groups; ++g) {
      fetch.next();
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) group[t].open(tile + t * tile_bytes, g, part);
      start<0>();
      step<0>();
      step<1>();
      if constexpr (G::kSix) {
        open_scales(tile, tile_bytes, g, part);
        scale<0>();
        start<1>();
      }
      step<2>();
      step<3>();
      if constexpr (!G::kSix) open_scales(tile, tile_bytes, g, part);
      scale<G::kSix ? 1 : 0>();
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) ++x[r];
    }
  }

  // `outputs`: of the matrix, from the block's first on.
  [[gnu::always_inline]] void write(float* out, int64_t stride, const float* bias, bool accumulate, int64_t outputs) {
    if (outputs >= (T - 1) * kLanes + kWidth && !bias) {  // indices are constants: the sums stay in registers
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) {
          float* to = out + r * stride + t * kLanes;
          (accumulate ? acc[t][r] + Vec::load(to) : acc[t][r]).store(to);
        }
      }
      return;
    }
    Vec kept[T * R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) kept[r * T + t] = acc[t][r];
    }
    write_some(kept, R, T, out, stride, bias, accumulate, outputs);
  }
};

struct Job {
  const Matrix* matrix;
  const uint8_t* rows;
  int64_t row_bytes;
  Target target;
};

template <Format F, int R, int T>
[[gnu::noinline]] void block(const Job& job, int64_t tile, int64_t row, Fetch fetch) {
  const Matrix& m = *job.matrix;
  for (int part = 0; part < kLanes / kWidth; ++part) {
    Block<F, R, T> b;
    b.run(m.data + tile * m.tile_bytes, m.tile_bytes, m.columns / 32, part, job.rows + row * job.row_bytes,
          job.row_bytes, fetch);
    fetch.bytes = 0;
    const int64_t n = tile * kLanes + part * kWidth;
    float* out = job.target.out + row * job.target.stride + n;
    b.write(out, job.target.stride, job.target.bias ? job.target.bias + n : nullptr, job.target.accumulate, m.rows - n);
  }
}

// Rows that one block keeps in registers, for blocks of one tile and of two (0: never). Two tiles share each broadcast
// of inputs, better for many rows; one tile reads weights in a line, better for few. Twelve chains of dot products hide
// each other's latency, the last of a group and its scales too; eight lose a twentieth. Q6_K has two scales: one tile.
// Sums without VNNI take two registers each, and AVX2 has sixteen.
#if defined(__AVX512BW__)
#if defined(__AVX512VNNI__)
constexpr int kChains = 12;
#else
constexpr int kChains = 8;
#endif
template <Format F>
constexpr int kRowsOfOne = F == Format::Q6_K ? 8 : 6;
template <Format F>
constexpr int kRowsOfTwo = F == Format::Q6_K ? 0 : kChains / 2;
#else
template <Format F>
constexpr int kRowsOfOne = kWidth == 8 ? 4 : 1;
template <Format F>  // of 4 bits alone: their sums take one register until the group ends
constexpr int kRowsOfTwo = kWidth == 8 && packed_layout(F).quant_bytes == 256 ? 2 : 0;
#endif
constexpr int64_t kShares = 4;              // blocks that share the fetching of the next tiles
constexpr int64_t kFirstLevel = 24 * 1024;  // of a first-level cache of 32 KiB: these tiles and the next

// What a single block fetches ahead of itself.
#if defined(__AVX512F__)
// Always what is 8 KB ahead (4 and 16 are worse): Zen 5 reads ahead of Q5_0's one row at half the speed if left alone.
template <Format F>
Fetch fetch_alone(const uint8_t* here, int64_t, int64_t per_group) {
  return {here + 8192, per_group, true};
}
#else
// Nothing where it only waits for memory, which the hardware reads ahead at full speed if left alone; a little where
// scales take longer; more where rows keep the processor busy.
template <Format F>
Fetch fetch_alone(const uint8_t* here, int64_t rows, int64_t per_group) {
  constexpr int64_t kNear = 4096, kFar = 16384;
  if (packed_layout(F).unit_groups > 2) return {here + kNear, per_group, true};
  if (rows <= 2) return {here, 0, true};
  return {here + kFar, per_group, false};
}
#endif

template <Format F, int R, int T>
void block_of(int64_t rows, const Job& job, int64_t tile, int64_t row, const Fetch& fetch) {
  if constexpr (R > 0) {
    if (rows == R) return block<F, R, T>(job, tile, row, fetch);
    block_of<F, R - 1, T>(rows, job, tile, row, fetch);
  }
}

// All rows of a pass for T tiles, in blocks of nearly the same size: a small one would wait for its few chains of dots.
// Several blocks share the work of fetching the next tiles, so that memory is busy while they compute.
template <Format F, int R, int T>
void rows_of_tiles(const Job& job, int64_t tile, int64_t row, int64_t end) {
  const int64_t groups = job.matrix->columns / 32, bytes = T * job.matrix->tile_bytes;
  const uint8_t* here = job.matrix->data + tile * job.matrix->tile_bytes;
  const int64_t count = end - row, blocks = (count + R - 1) / R, shares = blocks < kShares ? blocks : kShares;
  const int64_t per_group = (bytes / shares / groups + 63) / 64 * 64;
  for (int64_t b = 0; b < blocks; ++b) {
    Fetch fetch{here + bytes + b * (bytes / shares), b < shares ? per_group : 0, 2 * bytes <= kFirstLevel};
    if (blocks == 1) fetch = fetch_alone<F>(here, count, per_group);
    const int64_t rows = count * (b + 1) / blocks - count * b / blocks;
    block_of<F, R, T>(rows, job, tile, row, fetch);
    row += rows;
  }
}

// Weights stream once for each pass of rows that fits in the cache.
template <Format F>
void matmul_format(const Job& job, int64_t rows, int64_t tile_begin, int64_t tile_end) {
  const int64_t pass = rows_per_pass(rows, job.row_bytes, 24);
  for (int64_t row = 0; row < rows; row += pass) {
    const int64_t end = row + pass < rows ? row + pass : rows;
    int64_t tile = tile_begin;
    if constexpr (kRowsOfTwo<F> > 0) {
      if (end - row > kRowsOfOne<F>) {
        for (; tile + 2 <= tile_end; tile += 2) rows_of_tiles<F, kRowsOfTwo<F>, 2>(job, tile, row, end);
      }
    }
    for (; tile < tile_end; ++tile) rows_of_tiles<F, kRowsOfOne<F>, 1>(job, tile, row, end);
  }
}

}  // namespace

void matmul_quantised(const Matrix& matrix, const uint8_t* prepared, int64_t row_bytes, int64_t rows,
                      int64_t tile_begin, int64_t tile_end, const Target& target) {
  const Job job{&matrix, prepared, row_bytes, target};
  switch (matrix.format) {
    case Format::Q8_0:
      return matmul_format<Format::Q8_0>(job, rows, tile_begin, tile_end);
    case Format::Q4_0:
      return matmul_format<Format::Q4_0>(job, rows, tile_begin, tile_end);
    case Format::Q4_1:
      return matmul_format<Format::Q4_1>(job, rows, tile_begin, tile_end);
    case Format::Q5_0:
      return matmul_format<Format::Q5_0>(job, rows, tile_begin, tile_end);
    case Format::Q5_1:
      return matmul_format<Format::Q5_1>(job, rows, tile_begin, tile_end);
    case Format::Q4_K:
      return matmul_format<Format::Q4_K>(job, rows, tile_begin, tile_end);
    case Format::Q5_K:
      return matmul_format<Format::Q5_K>(job, rows, tile_begin, tile_end);
    case Format::Q6_K:
      return matmul_format<Format::Q6_K>(job, rows, tile_begin, tile_end);
    default:
      return;
  }
}

}  // namespace legato::LEGATO_ISA
