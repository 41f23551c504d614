// Attention over an 8-bit cache: sums of products of 16-bit queries and weights with the stored integers.
//
// Numeric definition, the same bits on every instruction set, for any tile of registers and number of rows:
//   query: 16-bit integers with one factor for each row and head; a score is the exact integer sum over the head's
//   dimensions, as float times the query's factor times the key's scale;
//   value of a dimension within a tile: weights are multiplied with the values' scales and become 16-bit integers with
//   one unit for the tile; the exact integer sum over the positions, as float times the unit.
// Positions that a row does not see have the weight 0, so whatever bytes lie there cannot reach the result. Of keys
// or a query that were not finite the score is NaN; of values, the result is not finite where they have weight.
#pragma once
#include "attention_kernels.h"

namespace legato::LEGATO_ISA {
namespace {

constexpr int kLargest = 32767;  // of queries and weights; head_dim <= 512 and kTile keep sums below 2^31

// 16 lanes of two neighbouring 16-bit integers.
#if defined(__AVX512BW__)
struct Pairs {
  __m512i v;
  static Pairs load(const int8_t* p) { return {_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p))}; }
  static Pairs splat(const int16_t* p) {
    int32_t both;
    __builtin_memcpy(&both, p, 4);
    return {_mm512_set1_epi32(both)};
  }
};
inline I32x16 dot(I32x16 sum, Pairs a, Pairs b) {
#if defined(__AVX512VNNI__)
  // Not the intrinsic: GCC 12 would copy sums between registers and memory, which takes twice as long.
  asm("vpdpwssd %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
  return sum;
#else
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(a.v, b.v))};
#endif
}
inline void store_narrow(I32x16 a, int16_t* p) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtsepi32_epi16(a.v)); }
#elif defined(__AVX2__)
struct Pairs {
  __m256i lo, hi;
  static Pairs load(const int8_t* p) {
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p + 1))};
  }
  static Pairs splat(const int16_t* p) {
    int32_t both;
    __builtin_memcpy(&both, p, 4);
    return {_mm256_set1_epi32(both), _mm256_set1_epi32(both)};
  }
};
inline I32x16 dot(I32x16 sum, Pairs a, Pairs b) {
  return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(a.lo, b.lo)),
          _mm256_add_epi32(sum.hi, _mm256_madd_epi16(a.hi, b.hi))};
}
inline void store_narrow(I32x16 a, int16_t* p) {
  const __m256i mixed = _mm256_packs_epi32(a.lo, a.hi);  // quarters in the order 0 2 1 3
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(mixed, 0xd8));
}
#else
struct Pairs {
  int16_t v[32];
  static Pairs load(const int8_t* p) {
    Pairs r;
    for (int i = 0; i < 32; ++i) r.v[i] = p[i];
    return r;
  }
  static Pairs splat(const int16_t* p) {
    Pairs r;
    for (int i = 0; i < 32; ++i) r.v[i] = p[i % 2];
    return r;
  }
};
inline I32x16 dot(I32x16 sum, const Pairs& a, const Pairs& b) {
  for (int i = 0; i < 16; ++i) sum.v[i] += a.v[2 * i] * b.v[2 * i] + a.v[2 * i + 1] * b.v[2 * i + 1];
  return sum;
}
inline void store_narrow(I32x16 a, int16_t* p) {
  for (int i = 0; i < 16; ++i) p[i] = (int16_t)(a.v[i] < -32768 ? -32768 : a.v[i] > 32767 ? 32767 : a.v[i]);
}
#endif

struct IntegerElement {
  using Raw = int8_t;
  static constexpr Products kProducts = Products::Integers;
};

// 127 or 32767 quanta to the largest magnitude. A row that is (nearly) zero has the unit 0.
struct Scale {
  float unit, inverse;
};
inline Scale scale_of(float largest, int quanta) {
  if (!(largest > 0x1p-100f)) return {0, 0};
  return {largest / (float)quanta, (float)quanta / largest};
}

// One query as integers, every `stride`-th pair of `to` (padded with zeros); returns its unit, NaN if not finite.
inline float quantise_query(const float* x, int head_dim, int padded, int stride, int16_t* to) {
  F32x16 most = F32x16::zero();
  const F32x16 infinity = F32x16::splat(__builtin_inff());
  unsigned finite = 0xffff;
  for (int d = 0; d < head_dim; d += 16) {
    const F32x16 size = abs(F32x16::load_partial(x + d, head_dim - d < 16 ? head_dim - d : 16));
    finite &= less(size, infinity);
    most = max(most, size);
  }
  const Scale scale = scale_of(finite == 0xffff ? reduce_max(most) : 0.0f, kLargest);
  const F32x16 inverse = F32x16::splat(scale.inverse);
  for (int d = 0; d < padded; d += 16) {
    const int n = head_dim - d < 16 ? head_dim - d : 16;
    int16_t part[16];
    F32x16 v = F32x16::load_partial(x + d, n > 0 ? n : 0);
    if (finite != 0xffff) v = F32x16::zero();
    store_narrow(to_int(v * inverse), part);
    for (int i = 0; i < 16; i += 2) __builtin_memcpy(to + (d + i) * stride, part + i, 4);
  }
  return finite == 0xffff ? scale.unit : __builtin_nanf("");
}

// Scores of NQ queries (pairs of dimensions, [pairs][NQ][2]) for NB blocks of a tile.
template <int NQ, int NB, bool kFetches>
inline void score_integers(const TileBlocks<IntegerElement>& tile, int block, const int16_t* q, int padded,
                           const float* factors, float* scores) {
  I32x16 sum[NQ][NB];
  for (int i = 0; i < NQ; ++i) {
    for (int b = 0; b < NB; ++b) sum[i][b] = I32x16::splat(0);
  }
  Ahead<IntegerElement, 2 * kBlock> beside(tile.beside + block, padded / 2, 0);
  for (int d = 0; d < padded; d += 2, q += 2 * NQ) {
    Pairs key[NB];
    if constexpr (kFetches) fetch_units<NB>(beside);
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) key[b] = Pairs::load(tile.k[block + b] + d * kBlock);
#pragma GCC unroll 12
    for (int i = 0; i < NQ; ++i) {
      const Pairs x = Pairs::splat(q + 2 * i);
#pragma GCC unroll 8
      for (int b = 0; b < NB; ++b) sum[i][b] = dot(sum[i][b], x, key[b]);
    }
  }
  for (int b = 0; b < NB; ++b) {
    const F32x16 scale = F32x16::load((const float*)(tile.k[block + b] + padded * kBlock));
    for (int i = 0; i < NQ; ++i) {
      (to_float(sum[i][b]) * F32x16::splat(factors[i]) * scale).store(scores + i * kTile + (block + b) * kBlock);
    }
  }
}

template <int NQ, int NB = blocks_at_once(NQ)>
inline void score_range_integers(const TileBlocks<IntegerElement>& tile, int block, int end, const int16_t* q,
                                 int padded, const float* factors, float* scores) {
  for (; block + NB <= end; block += NB) {
    if_fetching<waits_for_memory(NQ)>(
        tile, [&](auto fetches) { score_integers<NQ, NB, fetches.value>(tile, block, q, padded, factors, scores); });
  }
  if constexpr (NB > 1) {
    if (block < end) score_range_integers<NQ, NB / 2>(tile, block, end, q, padded, factors, scores);
  }
}

// Weights of a query, in place of its scores: as integers, from block `begin` to `end`; returns their unit.
inline float narrow_weights(const TileBlocks<IntegerElement>& tile, int begin, int end, int padded, float* weights) {
  F32x16 most = F32x16::zero();
  for (int b = begin; b < end; ++b) {
    const F32x16 scale = F32x16::load((const float*)(tile.v[b] + padded * kBlock));
    F32x16 w = F32x16::load(weights + b * kBlock);
    w = select(less(F32x16::zero(), w), w * scale, F32x16::zero());
    w.store(weights + b * kBlock);
    most = max(most, w);
  }
  const Scale scale = scale_of(reduce_max(most), kLargest);
  const F32x16 inverse = F32x16::splat(scale.inverse);
  for (int b = begin; b < end; ++b) {
    const I32x16 narrow = to_int(F32x16::load(weights + b * kBlock) * inverse);
    store_narrow(narrow, (int16_t*)weights + b * kBlock);  // behind what is still to be read
  }
  return scale.unit;
}

// Dimensions [column, column + 16 ND) of the weighted values of NQ queries, positions [2 * begin, 2 * end).
template <int NQ, int ND, bool kFetches>
inline void value_integers(const TileBlocks<IntegerElement>& tile, int begin, int end, const float* weights,
                           const float* units, Mask16 live, const Blend& blend, int padded, int column, float* state) {
  I32x16 sum[NQ][ND];
  for (int i = 0; i < NQ; ++i) {
    for (int j = 0; j < ND; ++j) sum[i][j] = I32x16::splat(0);
  }
  Ahead<IntegerElement, 32> ahead(tile.ahead, padded / 2, column / 16 * (kTile / 2) + begin * ND);
  for (int pair = begin; pair < end; ++pair) {
    const int block = pair / (kBlock / 2), at = 2 * (pair % (kBlock / 2) * padded + column);
    Pairs v[ND];
    if constexpr (kFetches) fetch_units<ND>(ahead);
    for (int j = 0; j < ND; ++j) v[j] = Pairs::load(tile.v[block] + at + 32 * j);
#pragma GCC unroll 12
    for (int i = 0; i < NQ; ++i) {
      const Pairs w = Pairs::splat((const int16_t*)(weights + i * kTile) + 2 * pair);
#pragma GCC unroll 8
      for (int j = 0; j < ND; ++j) sum[i][j] = dot(sum[i][j], w, v[j]);
    }
  }
  for (int i = 0; i < NQ; ++i) {
    if (!(live >> i & 1)) continue;
    float* out = state + (int64_t)i * padded + column;
    const F32x16 keep = F32x16::splat(blend.keep[i]), enter = F32x16::splat(blend.enter[i]);
    for (int j = 0; j < ND; ++j) {
      const F32x16 part = to_float(sum[i][j]) * F32x16::splat(units[i]);
      (blend.raw ? part : fma(F32x16::load(out + j * 16), keep, part * enter)).store(out + j * 16);
    }
  }
}

template <int NQ, int ND = columns_at_once(NQ)>
inline void value_range_integers(const TileBlocks<IntegerElement>& tile, int begin, int end, const float* weights,
                                 const float* units, Mask16 live, const Blend& blend, int padded, int column,
                                 float* state) {
  for (; column + ND * 16 <= padded; column += ND * 16) {
    if_fetching<waits_for_memory(NQ)>(tile, [&](auto fetches) {
      value_integers<NQ, ND, fetches.value>(tile, begin, end, weights, units, live, blend, padded, column, state);
    });
  }
  if constexpr (ND > 1) {
    if (column < padded) {
      value_range_integers<NQ, ND / 2>(tile, begin, end, weights, units, live, blend, padded, column, state);
    }
  }
}

}  // namespace
}  // namespace legato::LEGATO_ISA
