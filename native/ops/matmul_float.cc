// Products of F32, F16 and BF16 weights.
//
// Definition: for each output one chain of fused multiply-adds over the inputs in ascending order, starting at zero;
// F16 and BF16 weights are widened exactly, rows are float. BF16 weights where there is vdpbf16ps: rows rounded to
// bf16, one chain of that instruction per output, pairs of inputs ascending.
#include "matmul.h"

namespace legato::LEGATO_ISA {
namespace {

// A step is 64 bytes of a tile (32 x 2 for F16): one input with F32, two with the others.
template <Format F>
constexpr int kInputs = F == Format::F32 ? 1 : 2;

#if defined(__AVX512BF16__)
constexpr bool kBf16Dot = true;
#else
constexpr bool kBf16Dot = false;
#endif

#if defined(__AVX512F__)
constexpr int kRows = 6, kTiles = 4;
#elif defined(__AVX2__)
constexpr int kRows = 5, kTiles = 1;
#else
constexpr int kRows = 1, kTiles = 1;
#endif
constexpr int64_t kPassRows = 16 * kRows;  // rows that share one reading of the weights
constexpr int64_t kFewRows = 4;            // they wait for memory, which is fastest when it is read in one line
constexpr int64_t kChunkSteps = 64;        // steps after which the next rows get their turn: weights stay in L1

// Prefetch distance of a block that is alone.
#if defined(__AVX512F__)
constexpr int64_t ahead_steps(int tiles) { return tiles == 1 ? 128 : 64; }  // 8 KB, of four tiles 16 KB
#else
constexpr int64_t ahead_steps(int) { return 64; }
#endif

template <Format F>
constexpr int64_t kInputBytes = kInputs<F> * (F == Format::BF16 && kBf16Dot ? 2 : 4);  // of a row, in a step

// Which of the tiles a block prefetches, and how many steps ahead. Blocks of one chunk share the next chunk, so that
// memory is busy while they compute.
struct Fetch {
  int first, last;
  int64_t steps;
};

// Sums of R rows x T tiles over a chunk of steps, in registers.
template <Format F, int R, int T>
struct Block {
  F32x16 acc[T][R];

  [[gnu::always_inline]] void step(const uint8_t* w, int64_t tile_bytes, const uint8_t* x, int64_t row_bytes) {
    if constexpr (F == Format::BF16 && kBf16Dot) {
#if defined(__AVX512BF16__)
      __m512bh weight[T];
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) weight[t] = (__m512bh)_mm512_loadu_si512(w + t * tile_bytes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        int32_t pair;
        __builtin_memcpy(&pair, x + r * row_bytes, 4);
        const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) acc[t][r].v = _mm512_dpbf16_ps(acc[t][r].v, weight[t], both);
      }
#endif
    } else {
      F32x16 even[T], odd[T];
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) load(w + t * tile_bytes, &even[t], &odd[t]);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const float* values = (const float*)(x + r * row_bytes);
        const F32x16 first = F32x16::splat(values[0]);
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) acc[t][r] = fma(even[t], first, acc[t][r]);
        if constexpr (kInputs<F> == 2) {
          const F32x16 second = F32x16::splat(values[1]);
#pragma GCC unroll 4
          for (int t = 0; t < T; ++t) acc[t][r] = fma(odd[t], second, acc[t][r]);
        }
      }
    }
  }

  static void load(const uint8_t* w, F32x16* even, F32x16* odd) {
    if constexpr (F == Format::F32) {
      *even = F32x16::load((const float*)w);
    } else if constexpr (F == Format::F16) {
      *even = F32x16::load_f16((const uint16_t*)w);
      *odd = F32x16::load_f16((const uint16_t*)w + 16);
    } else {
      const I32x16 pairs = I32x16::load((const int32_t*)w);
      *even = bits_to_float(shift_left<16>(pairs));
      *odd = bits_to_float(pairs & I32x16::splat((int32_t)0xffff0000));
    }
  }

  // sums: [R][sum_stride] floats, of which T x 16 are used: the chain's state between chunks.
  void run(const uint8_t* w, int64_t tile_bytes, const uint8_t* x, int64_t row_bytes, int64_t begin, int64_t end,
           int64_t steps, const Fetch& fetch, float* sums) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        acc[t][r] = begin == 0 ? F32x16::zero() : F32x16::load(sums + (r * T + t) * 16);
      }
    }
    for (int64_t s = begin; s < end; ++s) {
      int64_t later = s + fetch.steps;
      if (later >= steps) later += (T - 1) * steps;  // past the end of these tiles: on to the next ones
      if (fetch.last - fetch.first == T) {
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) fetch_soon(w + t * tile_bytes + later * 64);
      } else {
        for (int t = fetch.first; t < fetch.last; ++t) fetch_later(w + t * tile_bytes + later * 64);
      }
      step(w + s * 64, tile_bytes, x + s * kInputBytes<F>, row_bytes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) acc[t][r].store(sums + (r * T + t) * 16);
    }
  }
};

struct Job {
  const Matrix* matrix;
  const uint8_t* rows;
  int64_t row_bytes, steps;
  Target target;
};

template <Format F, int R, int T>
[[gnu::noinline]] void chunk(const Job& job, int64_t tile, int64_t row, int64_t begin, int64_t end, const Fetch& fetch,
                             float* sums) {
  Block<F, R, T> block;
  block.run(job.matrix->data + tile * job.matrix->tile_bytes, job.matrix->tile_bytes, job.rows + row * job.row_bytes,
            job.row_bytes, begin, end, job.steps, fetch, sums);
}

// One chunk of `count` rows (1..R).
template <Format F, int R, int T>
void chunk_of_rows(int64_t count, const Job& job, int64_t tile, int64_t row, int64_t begin, int64_t end,
                   const Fetch& fetch, float* sums) {
  if constexpr (R > 0) {
    if (count == R) return chunk<F, R, T>(job, tile, row, begin, end, fetch, sums);
    chunk_of_rows<F, R - 1, T>(count, job, tile, row, begin, end, fetch, sums);
  }
}

// T tiles for `count` rows (at most kPassRows).
template <Format F, int T>
void tiles(const Job& job, int64_t tile, int64_t row, int64_t count) {
  alignas(64) float sums[kPassRows * T * 16];
  const int64_t blocks = (count + kRows - 1) / kRows;
  const int64_t size = blocks == 1 ? job.steps : kChunkSteps;         // nobody to share a chunk with: one chunk
  const int64_t height = (count + blocks - 1) / blocks;               // rows of a block: about the same in each
  const int shares = blocks == 1 ? 1 : blocks < 4 ? (T + 1) / 2 : T;  // each of so many blocks fetches T / shares tiles
  for (int64_t begin = 0; begin < job.steps; begin += size) {
    const int64_t end = begin + size < job.steps ? begin + size : job.steps;
    Fetch fetch{0, T / shares, blocks == 1 ? ahead_steps(T) : kChunkSteps};
    for (int64_t r = 0; r < count; r += height) {
      chunk_of_rows<F, kRows, T>(count - r < height ? count - r : height, job, tile, row + r, begin, end, fetch,
                                 sums + r * T * 16);
      fetch.first = fetch.last;
      fetch.last = fetch.last + T / shares < T ? fetch.last + T / shares : T;
    }
  }
  const Target& target = job.target;
  for (int t = 0; t < T; ++t) {
    const int64_t n = (tile + t) * kLanes;
    for (int64_t r = 0; r < count; ++r) {
      write_lanes(F32x16::load(sums + (r * T + t) * 16), target.out + (row + r) * target.stride + n,
                  target.bias ? target.bias + n : nullptr, target.accumulate, kLanes, job.matrix->rows - n);
    }
  }
}

template <Format F>
void matmul_format(const Job& job, int64_t rows, int64_t tile_begin, int64_t tile_end) {
  for (int64_t row = 0; row < rows; row += kPassRows) {
    const int64_t count = rows - row < kPassRows ? rows - row : kPassRows;
    int64_t tile = tile_begin;
    if (count <= kFewRows) {
      for (; tile < tile_end; ++tile) tiles<F, 1>(job, tile, row, count);
      continue;
    }
    for (; tile + kTiles <= tile_end; tile += kTiles) tiles<F, kTiles>(job, tile, row, count);
    if constexpr (kTiles > 2) {
      for (; tile + 2 <= tile_end; tile += 2) tiles<F, 2>(job, tile, row, count);
    }
    for (; tile < tile_end; ++tile) tiles<F, 1>(job, tile, row, count);
  }
}

}  // namespace

void matmul_float(const Matrix& matrix, const uint8_t* prepared, int64_t row_bytes, int64_t rows, int64_t tile_begin,
                  int64_t tile_end, const Target& target) {
  Job job{&matrix, prepared, row_bytes, (matrix.columns + 1) / 2, target};
  switch (matrix.format) {
    case Format::F32:
      job.steps = matrix.columns;
      return matmul_format<Format::F32>(job, rows, tile_begin, tile_end);
    case Format::F16:
      return matmul_format<Format::F16>(job, rows, tile_begin, tile_end);
    case Format::BF16:
      return matmul_format<Format::BF16>(job, rows, tile_begin, tile_end);
    default:
      return;
  }
}

}  // namespace legato::LEGATO_ISA
