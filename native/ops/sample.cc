// From a row of logits to a token.
//
// Order: log-probabilities and rank are of the logits as they came; then mask, bias, penalties (repetition, frequency,
// presence), temperature, min-p, top-k, top-p (each on what the one before left, as vLLM does), then one draw.
// The draw is counted, not drawn from a stream: Philox4x32-10 of (seed, position in the sequence), so that a replayed
// sequence takes the same token. Sums run in one fixed order on every instruction set.
// With a fallback mask the row is drawn without a mask first, so that a sequence which keeps to the mask by itself is
// the one without it. Only a token that the mask lacks is drawn again, by a random number of its own.
// A row with a NaN or +inf, or with no token left, gives token -1.
#include "fill.h"
#include "sample_select.h"

namespace legato::LEGATO_ISA {
namespace {

constexpr int64_t kSumBlock = 1024;    // values whose weights are added in floats, lane by lane
constexpr float kGreedyBelow = 1e-5f;  // a lower temperature takes the greatest value
constexpr float kHidden = -__builtin_inff();
constexpr int64_t kFew = 1024;  // allowed tokens that are moved together before one is drawn

struct Desk {
  float* values;          // [vocab] logits after bias and penalties
  float* weights;         // [vocab] exp((value - greatest) / temperature)
  int32_t* counts;        // [vocab] occurrences of the tokens under a penalty; others are not initialised
  Candidate* candidates;  // [vocab]
  double* sums;           // [vocab / kSumBlock + 1]
};

constexpr size_t align64(size_t n) { return (n + 63) / 64 * 64; }

size_t lay_out(int64_t vocab, char* base, Desk* desk) {
  const size_t floats = align64(4 * (size_t)vocab), candidates = align64(sizeof(Candidate) * (size_t)vocab);
  const size_t sums = align64(8 * ((size_t)(vocab / kSumBlock) + 1));
  if (desk) {
    *desk = {(float*)base, (float*)(base + floats), (int32_t*)(base + 2 * floats), (Candidate*)(base + 3 * floats),
             (double*)(base + 3 * floats + candidates)};
  }
  return 3 * floats + candidates + sums;
}

// Philox4x32-10 (Salmon et al. 2011), counter (position, attempt), key seed; 53 bits of it as a number in [0, 1).
double uniform(uint64_t seed, uint64_t position, uint32_t attempt) {
  uint32_t x[4] = {(uint32_t)position, (uint32_t)(position >> 32), attempt, 0};
  uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = (uint64_t)x[0] * 0xd2511f53u, b = (uint64_t)x[2] * 0xcd9e8d57u;
    const uint32_t next[4] = {(uint32_t)(b >> 32) ^ x[1] ^ key[0], (uint32_t)b, (uint32_t)(a >> 32) ^ x[3] ^ key[1],
                              (uint32_t)a};
    for (int i = 0; i < 4; ++i) x[i] = next[i];
    key[0] += 0x9e3779b9u;
    key[1] += 0xbb67ae85u;
  }
  return (double)(((uint64_t)x[1] << 32 | x[0]) >> 11) * 0x1p-53;
}

// The greatest value; NaN if the row holds a NaN or +inf, or nothing but -inf.
float greatest(const float* x, int64_t n) {
  F32x16 most[4], odd[4];
  for (int j = 0; j < 4; ++j) {
    most[j] = F32x16::splat(kHidden);
    odd[j] = F32x16::zero();
  }
  // x - x is 0 for a number and NaN otherwise; -inf is let through by adding it to the lowest number first.
  const F32x16 lowest = F32x16::splat(-__FLT_MAX__);
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const F32x16 v = F32x16::load(x + i + j * kLanes), finite = max(lowest, v);  // NaN: v
      most[j] = max(most[j], v);
      odd[j] = odd[j] + (finite - finite);
    }
  }
  for (; i < n; i += kLanes) {
    const F32x16 v = load_or_hidden(x, i, n), finite = max(lowest, v);
    most[0] = max(most[0], v);
    odd[0] = odd[0] + (finite - finite);
  }
  const float top = reduce_max(max(max(most[0], most[1]), max(most[2], most[3])));
  const float sum = reduce_add((odd[0] + odd[1]) + (odd[2] + odd[3]));
  return sum == 0.0f && top > kHidden ? top : __builtin_nanf("");
}

int32_t first_equal(const float* x, int64_t n, float value) {
  const F32x16 wanted = F32x16::splat(value);
  for (int64_t i = 0; i < n; i += kLanes) {
    const unsigned m = equal(load_or_hidden(x, i, n), wanted);
    if (m != 0) return (int32_t)i + __builtin_ctz(m);
  }
  return -1;
}

// Sum of exp((x - top) * scale) over x[0, n), n <= kSumBlock.
double block_sum(const float* x, int64_t n, float top, float scale) {
  const F32x16 t = F32x16::splat(top), s = F32x16::splat(scale);
  F32x16 sum = F32x16::zero();
  for (int64_t i = 0; i < n; i += kLanes) sum = sum + exp((load_or_hidden(x, i, n) - t) * s);
  return (double)reduce_add(sum);
}

double total_weight(const float* x, int64_t n, float top, float scale) {
  double total = 0;
  for (int64_t i = 0; i < n; i += kSumBlock) {
    total += block_sum(x + i, n - i < kSumBlock ? n - i : kSumBlock, top, scale);
  }
  return total;
}

void copy_allowed(const float* logits, int64_t vocab, const uint32_t* mask, float* out) {
  const F32x16 hidden = F32x16::splat(kHidden);
  for (int64_t i = 0; i < vocab; i += kLanes) {
    F32x16 x = load_or_hidden(logits, i, vocab);
    if (mask) x = select((Mask16)(mask[i / 32] >> i % 32), x, hidden);
    x.store_partial(out + i, (int)(vocab - i < kLanes ? vocab - i : kLanes));
  }
}

bool has_penalty(const SampleRow& r) {
  return r.repetition_penalty != 1.0f || r.presence_penalty != 0.0f || r.frequency_penalty != 0.0f;
}

// Each token once, however often it occurs.
void penalise(const SampleRow& r, int64_t vocab, int32_t* counts, float* values) {
  const auto known = [&](int32_t id) { return id >= 0 && id < vocab; };
  for (int32_t i = 0; i < r.prompt_count; ++i) {
    if (known(r.prompt_ids[i])) counts[r.prompt_ids[i]] = 0;
  }
  for (int32_t i = 0; i < r.output_count; ++i) {
    if (known(r.output_ids[i])) counts[r.output_ids[i]] = 0;
  }
  for (int32_t i = 0; i < r.output_count; ++i) {
    if (known(r.output_ids[i])) ++counts[r.output_ids[i]];
  }
  const auto apply = [&](int32_t id) {
    if (!known(id) || counts[id] < 0) return;
    float x = values[id];
    x = x > 0 ? x / r.repetition_penalty : x * r.repetition_penalty;
    x -= r.frequency_penalty * (float)counts[id];
    if (counts[id] > 0) x -= r.presence_penalty;
    values[id] = x;
    counts[id] = -1;
  };
  if (r.repetition_penalty != 1.0f) {
    for (int32_t i = 0; i < r.prompt_count; ++i) apply(r.prompt_ids[i]);
  }
  for (int32_t i = 0; i < r.output_count; ++i) apply(r.output_ids[i]);
}

// The logits as the row wants them: the row itself where nothing is changed.
const float* adjust(const float* logits, int64_t vocab, const SampleRow& r, const uint32_t* mask, const Desk& desk) {
  const bool penalty = has_penalty(r);
  if (!mask && r.bias_count == 0 && !penalty) return logits;
  copy_allowed(logits, vocab, mask, desk.values);
  for (int32_t i = 0; i < r.bias_count; ++i) {
    if (r.bias_ids[i] >= 0 && r.bias_ids[i] < vocab) desk.values[r.bias_ids[i]] += r.bias_values[i];
  }
  if (penalty) penalise(r, vocab, desk.counts, desk.values);
  return desk.values;
}

// The tokens that min-p and top-p leave: those with a greater value, and of those with this value the ids up to `id`.
struct Border {
  float value;
  int32_t id;
};
// Lanes [at, at + 16) of a row that the border leaves.
Mask16 lanes_held(Border border, F32x16 value, int64_t at) {
  const F32x16 limit = F32x16::splat(border.value);
  const int64_t equal_lanes = border.id - at + 1;  // of those equal to the limit
  const unsigned low = equal_lanes >= 16 ? 0xffffu : equal_lanes <= 0 ? 0u : (1u << equal_lanes) - 1u;
  return (Mask16)(less(limit, value) | (equal(limit, value) & low));
}

// Sum of the weights of values >= low; *count: how many.
double mass_from(const float* x, const float* weights, int64_t n, float low, int64_t* count) {
  const F32x16 limit = F32x16::splat(low), zero = F32x16::zero();
  double mass = 0;
  int64_t below = 0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t end = n - begin < kSumBlock ? n : begin + kSumBlock;
    F32x16 sum[4] = {zero, zero, zero, zero};
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      for (int j = 0; j < 4; ++j) {
        const Mask16 out = less(F32x16::load(x + i + j * kLanes), limit);
        sum[j] = sum[j] + select(out, zero, F32x16::load(weights + i + j * kLanes));
        below += __builtin_popcount((unsigned)out);
      }
    }
    for (; i < end; ++i) {
      if (x[i] < low) {
        ++below;
      } else {
        mass += (double)weights[i];
      }
    }
    mass += (double)reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
  *count = n - below;
  return mass;
}

// Draws a token by the weights that weigh(i) gives for tokens i .. i + 15: finds the block of the cumulative sum,
// then the token within it.
template <class F>
int32_t draw(int64_t n, double u, double* sums, const F& weigh) {
  const int64_t blocks = (n + kSumBlock - 1) / kSumBlock;
  const auto end_of = [&](int64_t b) { return (b + 1) * kSumBlock < n ? (b + 1) * kSumBlock : n; };
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    F32x16 sum = F32x16::zero();
    for (int64_t i = b * kSumBlock; i < end_of(b); i += kLanes) sum = sum + weigh(i);
    sums[b] = (double)reduce_add(sum);
    total += sums[b];
  }
  double rest = u * total;
  int64_t b = 0, last = 0;
  for (; b < blocks; ++b) {
    if (sums[b] > 0) last = b;
    if (rest < sums[b]) break;
    rest -= sums[b];
  }
  if (b == blocks) b = last;  // rounding carried the draw past the end
  int32_t chosen = -1;
  for (int64_t i = b * kSumBlock; i < end_of(b); i += kLanes) {
    float weight[kLanes];
    weigh(i).store(weight);
    for (int j = 0; j < kLanes; ++j) {
      if (weight[j] == 0.0f) continue;
      chosen = (int32_t)i + j;
      if (rest < (double)weight[j]) return chosen;
      rest -= (double)weight[j];
    }
  }
  return chosen;
}

void weigh(Candidate* c, int64_t n, float top, float scale) {
  for (int64_t i = 0; i < n; i += kLanes) {
    float x[kLanes] = {};
    const int count = (int)(n - i < kLanes ? n - i : kLanes);
    for (int j = 0; j < count; ++j) x[j] = c[i + j].value;
    exp((F32x16::load(x) - F32x16::splat(top)) * F32x16::splat(scale)).store(x);
    for (int j = 0; j < count; ++j) c[i + j].weight = x[j];
  }
}

double mass_of(const Candidate* c, int64_t n) {
  double mass = 0;
  for (int64_t i = 0; i < n; ++i) mass += (double)c[i].weight;
  return mass;
}

int32_t draw_from(const Candidate* c, int64_t n, double u) {
  const double target = u * mass_of(c, n);
  double mass = 0;
  int32_t chosen = c[0].id;
  for (int64_t i = 0; i < n; ++i) {
    if (c[i].weight == 0.0f) continue;
    chosen = c[i].id;
    mass += (double)c[i].weight;
    if (target < mass) break;
  }
  return chosen;
}

// min-p as a limit of values: greatest + temperature * ln(min_p).
float limit_of(const SampleRow& r, float top) {
  if (!(r.min_p > 0)) return kHidden;
  const float limit = (float)((double)top + (double)r.temperature * __builtin_log((double)r.min_p));
  return limit > top ? top : limit;
}

// The weights of values >= limit (0 elsewhere) and their sum.
double weigh_all(const float* x, int64_t n, float top, float scale, float limit, float* weights) {
  const F32x16 t = F32x16::splat(top), s = F32x16::splat(scale), least = F32x16::splat(limit);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t end = n - begin < kSumBlock ? n : begin + kSumBlock;
    F32x16 sum = F32x16::zero();
    for (int64_t i = begin; i < end; i += kLanes) {
      const F32x16 value = load_or_hidden(x, i, n);
      const F32x16 weight = select(less(value, least), F32x16::zero(), exp((value - t) * s));
      weight.store_partial(weights + i, (int)(n - i < kLanes ? n - i : kLanes));
      sum = sum + weight;
    }
    total += (double)reduce_add(sum);
  }
  return total;
}

// Where top-p ends among the values >= limit. The value is bracketed by halving until few tokens are left between
// the brackets, and only these are put in order.
Border nucleus(const float* x, int64_t vocab, const SampleRow& r, float top, float scale, float limit,
               const Desk& desk) {
  const double total = weigh_all(x, vocab, top, scale, limit, desk.weights);
  // Tokens below this weigh (1 - p) of all together at most, so that top-p drops every one of them.
  const double least = 0.999 * (1.0 - (double)r.top_p) * total / (double)vocab;
  float low = (float)((double)top + (double)r.temperature * __builtin_log(least)), high = __builtin_inff();
  if (low < limit) low = limit;
  int64_t count, count_above = 0;
  double above = 0;  // mass of values >= high: less than the target, while those >= low reach it
  // Sums in another order may differ in their last bits, and what is compared below is mass_from's.
  const double reach = mass_from(x, desk.weights, vocab, low, &count);
  const double target = (double)r.top_p * total < reach ? (double)r.top_p * total : reach;
  while (count - count_above > 512) {
    const float middle = 0.5f * (low + (high < top ? high : top));
    if (!(middle > low && middle < high)) break;
    int64_t n;
    const double mass = mass_from(x, desk.weights, vocab, middle, &n);
    if (mass >= target) {
      low = middle;
      count = n;
    } else {
      high = middle;
      count_above = n;
      above = mass;
    }
  }
  Candidate* c = desk.candidates;
  int64_t n = collect(x, vocab, low, high, c), kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (c[i].value >= high) continue;
    c[kept] = c[i];
    c[kept].weight = desk.weights[c[i].id];
    ++kept;
  }
  n = select_mass(c, kept, target - above);
  Candidate last = c[0];
  for (int64_t i = 1; i < n; ++i) last = before(last, c[i]) ? c[i] : last;
  return {last.value, last.id};
}

int32_t pick_of_top_k(const float* x, int64_t vocab, const SampleRow& r, float top, float scale, double u,
                      Candidate* c) {
  const float limit = limit_of(r, top);
  const int64_t found = select_top(x, vocab, r.top_k, c);
  int64_t n = 0;
  for (int64_t i = 0; i < found; ++i) {
    if (c[i].value >= limit && c[i].value > kHidden) c[n++] = c[i];
  }
  weigh(c, n, top, scale);
  if (r.top_p < 1.0f) n = select_mass(c, n, (double)r.top_p * mass_of(c, n));
  return draw_from(c, n, u);
}

int32_t pick(const float* x, int64_t vocab, const SampleRow& r, uint32_t attempt, float top, const Desk& desk) {
  if (!(r.temperature >= kGreedyBelow)) return first_equal(x, vocab, top);
  const float scale = 1.0f / r.temperature;
  const double u = uniform(r.seed, r.draw_position, attempt);
  if (r.top_k > 0 && r.top_k < vocab) return pick_of_top_k(x, vocab, r, top, scale, u, desk.candidates);
  if (r.top_p < 1.0f) {
    const Border border = nucleus(x, vocab, r, top, scale, limit_of(r, top), desk);
    return draw(vocab, u, desk.sums, [&](int64_t i) {
      const int n = (int)(vocab - i < kLanes ? vocab - i : kLanes);
      return select(lanes_held(border, load_or_hidden(x, i, vocab), i), F32x16::load_partial(desk.weights + i, n),
                    F32x16::zero());
    });
  }
  if (r.min_p > 0) {
    const int64_t n = collect(x, vocab, limit_of(r, top), top, desk.candidates);
    weigh(desk.candidates, n, top, scale);
    return draw_from(desk.candidates, n, u);
  }
  const F32x16 t = F32x16::splat(top), s = F32x16::splat(scale);
  return draw(vocab, u, desk.sums, [&](int64_t i) { return exp((load_or_hidden(x, i, vocab) - t) * s); });
}

// The tokens that the mask allows, ascending, if they are kFew at most; else -1.
int64_t gather_few(const float* logits, int64_t vocab, const uint32_t* mask, float* values, int32_t* ids) {
  int64_t count = 0;
  for (int64_t i = 0; i < vocab; i += 32) {
    uint32_t word = mask[i / 32];
    if (vocab - i < 32) word &= (1u << (vocab - i)) - 1u;
    if (count + __builtin_popcount(word) > kFew) return -1;
    for (; word; word &= word - 1) {
      ids[count] = (int32_t)i + __builtin_ctz(word);
      values[count] = logits[ids[count]];
      ++count;
    }
  }
  return count;
}

// One draw among the tokens that the mask allows (null: all); -1 if none is left. `top`: the greatest logit.
int32_t attempt(const float* logits, int64_t vocab, const SampleRow& r, const uint32_t* mask, uint32_t number,
                float top, const Desk& desk) {
  if (mask && r.bias_count == 0 && !has_penalty(r)) {
    const int64_t few = gather_few(logits, vocab, mask, desk.values, desk.counts);
    if (few >= 0) {
      const float most = greatest(desk.values, few);
      const int32_t index = most == most ? pick(desk.values, few, r, number, most, desk) : -1;
      return index < 0 ? -1 : desk.counts[index];
    }
  }
  const float* x = adjust(logits, vocab, r, mask, desk);
  const float adjusted_top = x == logits ? top : greatest(x, vocab);
  return adjusted_top == adjusted_top ? pick(x, vocab, r, number, adjusted_top, desk) : -1;
}

int32_t choose(const float* logits, int64_t vocab, const SampleRow& r, float top, const Desk& desk) {
  if (!r.mask || !r.fallback) return attempt(logits, vocab, r, r.mask, r.attempt, top, desk);
  const int32_t token = attempt(logits, vocab, r, nullptr, 0, top, desk);
  if (token >= 0 && (r.mask[token / 32] >> token % 32 & 1)) return token;
  return attempt(logits, vocab, r, r.fallback, 1, top, desk);
}

int32_t count_greater(const float* x, int64_t n, float value) {
  const F32x16 limit = F32x16::splat(value);
  int32_t count = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    count += __builtin_popcount((unsigned)less(limit, load_or_hidden(x, i, n)));
  }
  return count;
}

void report(const float* logits, int64_t vocab, const SampleRow& r, float top, const Desk& desk, SampleResult& out) {
  const double log_sum = __builtin_log(total_weight(logits, vocab, top, 1.0f));
  const auto logprob = [&](float x) { return (float)((double)x - (double)top - log_sum); };
  if (out.token >= 0) {
    out.logprob = logprob(logits[out.token]);
    out.rank = 1 + count_greater(logits, vocab, logits[out.token]);
  }
  if (r.num_logprobs == 0 || !out.top_ids) return;
  const int64_t n = select_top(logits, vocab, r.num_logprobs, desk.candidates);
  sort_falling(desk.candidates, n);
  for (int64_t i = 0; i < r.num_logprobs; ++i) {
    out.top_ids[i] = i < n ? desk.candidates[i].id : -1;
    out.top_logprobs[i] = i < n ? logprob(desk.candidates[i].value) : __builtin_nanf("");
  }
}

void sample(const float* logits, int64_t vocab, const SampleRow& r, SampleResult& out, void* scratch) {
  Desk desk;
  lay_out(vocab, (char*)scratch, &desk);
  out.token = -1;
  out.rank = 0;
  out.logprob = __builtin_nanf("");
  for (int32_t i = 0; i < r.num_logprobs && out.top_ids; ++i) {
    out.top_ids[i] = -1;
    out.top_logprobs[i] = __builtin_nanf("");
  }
  const float top = greatest(logits, vocab);
  if (top != top) return;
  if (r.forced >= 0) {
    out.token = r.forced < vocab ? r.forced : -1;
  } else {
    out.token = choose(logits, vocab, r, top, desk);
  }
  if (r.num_logprobs >= 0) report(logits, vocab, r, top, desk, out);
}

size_t sample_scratch(int64_t vocab) { return lay_out(vocab, nullptr, nullptr); }

// Four chains of multiply and rotate over the bits, then mixed together.
uint64_t hash_row(const float* logits, int64_t vocab) {
  uint64_t h[4] = {0x9e3779b97f4a7c15ull, 0xbf58476d1ce4e5b9ull, 0x94d049bb133111ebull, (uint64_t)vocab};
  for (int64_t i = 0; i < vocab; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, logits + i, 4);
    uint64_t& x = h[i & 3];
    x = (x ^ bits) * 0xd6e8feb86659fd93ull;
    x ^= x >> 32;
  }
  uint64_t all = 0;
  for (int i = 0; i < 4; ++i) {
    all = (all ^ h[i]) * 0xff51afd7ed558ccdull;
    all ^= all >> 29;
  }
  return all;
}

}  // namespace

void fill_sample(Kernels& k) {
  k.sample_scratch = sample_scratch;
  k.sample = sample;
  k.hash_row = hash_row;
}

}  // namespace legato::LEGATO_ISA
