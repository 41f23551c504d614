// Attention: against the double-precision reference with its derived bound, and bit for bit against itself however
// the same rows are batched, chunked and shared among threads, on every instruction set. Unused memory holds NaN.
// Sequences that begin with the same blocks are computed together where they share a tile: in chunks of one row they
// are alone.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../ops/reference_attention.h"

using namespace legato;

namespace {

int failures = 0;

struct Case {
  std::string name;
  KvType type;
  int heads, kv_heads, head_dim, window;
  float softcap;
  std::vector<std::pair<int, int>> sequences;  // (context before this step, new rows)
  std::vector<std::pair<int, int>> beginnings =
      {};  // of sequence i: (an earlier one, its positions that i begins with)

  int begun(size_t sequence) const {  // whole blocks
    return sequence < beginnings.size() ? beginnings[sequence].second / kBlock * kBlock : 0;
  }
};

uint16_t to_half(float x) {  // rounding does not matter here: the reference reads what was stored
  int exponent;
  const float m = std::frexp(std::fabs(x), &exponent);
  if (m == 0 || exponent < -12) return 0;
  return (uint16_t)((x < 0 ? 0x8000 : 0) | ((exponent + 14) << 10) | ((int)(m * 2048) - 1024));
}

// A step: queries, a paged cache with scattered blocks, NaN wherever no sequence has written.
struct Scene {
  const Case& c;
  std::vector<float> q;
  std::vector<uint8_t> k, v;
  std::vector<int32_t> positions, sequences, tables;
  int64_t stride = 0, blocks = 0;

  Scene(const Case& c, unsigned seed) : c(c) {
    std::mt19937 random(seed);
    for (size_t s = 0; s < c.sequences.size(); ++s) {
      const int needed = (c.sequences[s].first + c.sequences[s].second + kBlock - 1) / kBlock;
      stride = std::max<int64_t>(stride, needed);
      blocks += needed - c.begun(s) / kBlock;
    }
    blocks += 3;
    std::vector<int32_t> order((size_t)blocks);
    for (size_t i = 0; i < order.size(); ++i) order[i] = (int32_t)i;
    std::shuffle(order.begin(), order.end(), random);
    const size_t bytes = (size_t)((blocks + kKvGroup - 1) / kKvGroup * group_bytes());
    k.assign(bytes, 0xff);  // NaN in all types, of integers in their scales
    v.assign(bytes, 0xff);
    tables.assign(c.sequences.size() * (size_t)stride, 0);
    size_t next = 0;
    std::normal_distribution<float> normal;
    for (size_t s = 0; s < c.sequences.size(); ++s) {
      const int end = c.sequences[s].first + c.sequences[s].second;
      for (int b = 0; b < c.begun(s) / kBlock; ++b) {
        tables[s * (size_t)stride + (size_t)b] = tables[(size_t)(c.beginnings[s].first * stride + b)];
      }
      for (int p = c.begun(s); p < end; ++p) {
        if (p % kBlock == 0) tables[s * (size_t)stride + (size_t)(p / kBlock)] = order[next++];
        const int64_t block = tables[s * (size_t)stride + (size_t)(p / kBlock)];
        for (int h = 0; h < c.kv_heads; ++h) {
          if (c.type == KvType::I8) {
            put_integers(k, true, block, h, p % kBlock, random);
            put_integers(v, false, block, h, p % kBlock, random);
            continue;
          }
          for (int d = 0; d < c.head_dim; ++d) {
            put(k, place(true, block, h, p % kBlock, d), normal(random));
            put(v, place(false, block, h, p % kBlock, d), normal(random));
          }
          if (c.type == KvType::BF16 && c.head_dim % 2) put(k, place(true, block, h, p % kBlock, c.head_dim), 0);
        }
      }
      for (int p = c.sequences[s].first; p < end; ++p) {
        positions.push_back(p);
        sequences.push_back((int32_t)s);
      }
    }
    q.resize(positions.size() * (size_t)(c.heads * c.head_dim));
    for (float& x : q) x = normal(random);
  }

  // K or V of a group.
  int64_t group_bytes() const { return kKvGroup * c.kv_heads * kv_head_bytes(c.type, c.head_dim); }

  // Where a block's part of a head begins in k or v.
  int64_t part(int64_t block, int head) const {
    const int64_t group = block / 8, within = block % 8;
    return ((group * c.kv_heads + head) * 8 + within) * kv_head_bytes(c.type, c.head_dim);
  }

  // Where an element lies in k or v, in elements.
  int64_t place(bool is_key, int64_t block, int head, int at, int64_t d) const {
    const int64_t padded = (c.head_dim + 15) / 16 * 16, begin = part(block, head) / (c.type == KvType::F32 ? 4 : 2);
    if (c.type == KvType::BF16) {
      return begin + (is_key ? (d / 2 * 16 + at) * 2 + d % 2 : (at / 2 * padded + d) * 2 + at % 2);
    }
    return begin + (is_key ? d * kBlock + at : at * c.head_dim + d);
  }

  // Random integers and a scale; the padding keeps its 0xff.
  void put_integers(std::vector<uint8_t>& to, bool is_key, int64_t block, int head, int at,
                    std::mt19937& random) const {
    const int64_t padded = (c.head_dim + 15) / 16 * 16;
    uint8_t* data = to.data() + part(block, head);
    for (int64_t d = 0; d < c.head_dim; ++d) {
      const int64_t i = is_key ? (d / 2 * 16 + at) * 2 + d % 2 : (at / 2 * padded + d) * 2 + at % 2;
      data[i] = (uint8_t)std::uniform_int_distribution<int>(-127, 127)(random);
    }
    const float scale = std::uniform_real_distribution<float>(0.5f, 2.0f)(random) / 73;  // of variance 1, about
    std::memcpy(data + padded * 16 + at * 4, &scale, 4);
  }

  void put(std::vector<uint8_t>& to, int64_t index, float x) const {
    if (c.type == KvType::F32) {
      std::memcpy(&to[(size_t)index * 4], &x, 4);
      return;
    }
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint16_t narrow = c.type == KvType::F16 ? to_half(x) : (uint16_t)(bits >> 16);
    std::memcpy(&to[(size_t)index * 2], &narrow, 2);
  }

  AttentionArgs args(float* out) {
    const int width = c.heads * c.head_dim;
    const KvLayer layer{c.type,   c.kv_heads, c.head_dim,    k.data(),
                        v.data(), blocks,     group_bytes(), group_bytes() / c.kv_heads};
    return {q.data(),
            width,
            out,
            width,
            layer,
            positions.data(),
            sequences.data(),
            tables.data(),
            stride,
            (int)positions.size(),
            c.heads,
            c.window,
            1.0f / std::sqrt((float)c.head_dim),
            c.softcap};
  }
};

// Rows [from, to) of the scene as one call; the threads run one after the other, which the contract allows.
void run(const Kernels& table, Scene& scene, int from, int to, int threads, std::vector<float>& out) {
  AttentionArgs a = scene.args(out.data());
  a.q += from * a.q_stride;
  a.out += from * a.out_stride;
  a.positions += from;
  a.sequences += from;
  a.rows = to - from;
  std::vector<char> scratch(table.attention_scratch(a, threads) + 64, (char)0xff);
  char* aligned = scratch.data() + (64 - (uintptr_t)scratch.data() % 64) % 64;
  for (int phase = 0; phase < 2; ++phase) {
    for (int t = threads; t-- > 0;) table.attention(a, aligned, phase, t, threads);
  }
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

void fail(const Case& c, const char* isa, const char* what) {
  std::printf("FAIL %s %s: %s\n", c.name.c_str(), isa, what);
  ++failures;
}

void within_bound(const Case& c, const char* isa, Scene& scene, const std::vector<float>& out) {
  std::vector<double> wanted(out.size()), bound(out.size());
  reference_attention(scene.args(nullptr), wanted.data(), bound.data());
  double worst = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const double error = std::fabs(out[i] - wanted[i]) / bound[i];
    worst = error <= worst ? worst : error;  // a NaN becomes the worst
    if (!(error <= 1)) worst = INFINITY;
  }
  if (!(worst <= 1)) fail(c, isa, "beyond the bound of the reference");
}

void check(const Case& c) {
  Scene scene(c, 7);
  const int rows = (int)scene.positions.size();
  std::vector<float> first;
  for (const char* isa : {"scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16"}) {
    const Kernels* table = kernels(isa);
    if (!table) continue;
    std::vector<float> whole(scene.q.size(), NAN), other(scene.q.size());
    run(*table, scene, 0, rows, 1, whole);
    if (first.empty()) {
      within_bound(c, isa, scene, whole);
      first = whole;
    }
    if (!same(first, whole)) fail(c, isa, "bits differ from the first instruction set");
    for (int threads : {2, 3, 5}) {
      other.assign(other.size(), NAN);
      run(*table, scene, 0, rows, threads, other);
      if (!same(whole, other)) fail(c, isa, "bits differ with more threads");
    }
    for (int chunk : {1, 7, 16, 33}) {
      other.assign(other.size(), NAN);
      for (int r = 0; r < rows; r += chunk) run(*table, scene, r, std::min(rows, r + chunk), 1 + chunk % 2, other);
      if (!same(whole, other)) fail(c, isa, "bits differ in chunks");
    }
  }
}

}  // namespace

int main() {
  const KvType types[] = {KvType::F16, KvType::BF16, KvType::F32, KvType::I8};
  for (KvType type : types) {
    const std::string t = type == KvType::F16    ? "f16 "
                          : type == KvType::BF16 ? "bf16 "
                          : type == KvType::F32  ? "f32 "
                                                 : "i8 ";
    check({t + "smollm2", type, 9, 3, 64, 0, 0, {{0, 70}, {300, 1}, {511, 1}, {120, 20}, {0, 1}}});
    check({t + "gemma window", type, 4, 1, 256, 100, 0, {{90, 60}, {400, 1}, {127, 2}, {250, 13}}});
    check({t + "softcap", type, 8, 4, 80, 0, 30.0f, {{0, 40}, {260, 3}}});
    check({t + "small heads", type, 4, 2, 8, 0, 0, {{0, 33}, {140, 2}}});
    check({t + "odd heads", type, 6, 2, 24, 20, 5.0f, {{0, 50}, {129, 9}}});
    check({t + "one head each", type, 2, 2, 96, 0, 0, {{0, 37}, {255, 1}, {256, 1}}});
    check({t + "many heads, one kv", type, 14, 2, 64, 0, 0, {{100, 37}, {255, 1}}});
    check({t + "multi query", type, 71, 1, 16, 64, 0, {{100, 9}, {255, 1}}});
    check({t + "window of one", type, 3, 3, 32, 1, 0, {{0, 30}, {128, 4}}});
    check({t + "a common prompt",
           type,
           9,
           3,
           64,
           0,
           0,
           {{520, 1}, {515, 1}, {700, 1}, {511, 1}, {530, 2}, {512, 1}, {640, 30}, {600, 1}},
           {{0, 0}, {0, 512}, {0, 500}, {0, 511}, {2, 512}, {0, 512}, {4, 512}, {4, 512}}});
    check({t + "common prompts, window",
           type,
           4,
           1,
           48,
           200,
           0,
           {{400, 1}, {450, 1}, {300, 1}, {420, 3}, {400, 1}, {600, 2}, {400, 1}, {403, 1}},
           {{0, 0}, {0, 384}, {0, 256}, {0, 384}, {0, 0}, {4, 390}, {5, 256}, {6, 400}}});
    check({t + "more heads than go abreast", type, 80, 40, 16, 0, 0, {{300, 1}, {140, 2}, {700, 1}}});
    check({t + "dimension 1 and 17", type, 3, 1, 17, 0, 0, {{0, 30}, {128, 4}}});
    for (int group = 1; group <= 13; ++group) {  // each number of queries that a loop takes at once, and what is left
      check({t + std::to_string(group) + " heads, one kv", type, group, 1, 48, 0, 0, {{300, 1}, {140, 2}}});
    }
  }
  check({"long context", KvType::F16, 9, 3, 64, 0, 0, {{4000, 1}, {2999, 5}, {130, 3}}});
  check({"long context of integers", KvType::I8, 9, 3, 64, 0, 0, {{4000, 1}, {2999, 5}, {130, 3}}});
  check({"long window", KvType::BF16, 4, 1, 128, 512, 0, {{3000, 40}, {2047, 1}}});
  std::mt19937 random(5);  // trees of prompts
  for (int i = 0; i < 12; ++i) {
    Case c{"tree " + std::to_string(i), types[i % 4], 6, i % 3 + 1, 32 * (i % 2 + 1), i % 5 == 4 ? 150 : 0, 0, {}};
    if (c.heads % c.kv_heads) c.kv_heads = 2;
    for (int s = 0; s < 20; ++s) {
      const int context = (int)(random() % 600), before = s ? (int)(random() % (unsigned)s) : 0;
      const auto& [other, rows] = c.sequences.empty() ? std::pair{0, 0} : c.sequences[(size_t)before];
      c.beginnings.push_back({before, random() % 4 ? std::min(context, other + rows) : 0});
      c.sequences.push_back({context, random() % 3 ? 1 : 1 + (int)(random() % 9)});
    }
    check(c);
  }
  if (failures == 0) std::printf("ok\n");
  return failures != 0;
}
