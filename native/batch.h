// The flat arrays of one step as plain views (see src/legato/batch.py), and the check of every index in them.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace legato {

template <class T>
struct View {  // [rows][columns]; a vector has columns == 1
  const T* data = nullptr;
  int64_t rows = 0, columns = 1;
  T operator[](int64_t i) const { return data[i]; }
};

struct SamplingView {
  View<float> temperature;
  View<int32_t> top_k;
  View<float> top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  View<uint64_t> seed, draw_position;
  View<int32_t> forced, num_logprobs;
  View<int32_t> prompt_indptr, prompt_ids, output_indptr, output_ids, bias_indptr, bias_ids;
  View<float> bias_values;
  View<int32_t> mask_index, fallback_index;
  View<uint32_t> masks;
};

struct BatchView {
  View<int32_t> token_ids, positions, sequences, slots;
  View<int32_t> block_tables;  // [S][max blocks]
  View<int32_t> block_copies;  // [C][2]
  View<int32_t> logit_rows;
  SamplingView sampling;
  bool hash_logits = false;
};

// What the arrays may refer to.
struct BatchLimits {
  int64_t max_tokens, max_logit_rows;
  int64_t input_vocabulary, output_vocabulary;  // 0: the program has no embedding, no head
  int64_t blocks;                               // of the KV pool
};

// What changes from step to step in a batch of decodes.
struct MovingRows {
  int32_t *token_ids, *positions, *slots;
  uint64_t* draw_position;
};

// A batch in which every row is the newest token of a sequence and wants logits, one token further, in place: `drawn`
// are the rows' next tokens. Throws std::invalid_argument naming the field, with nothing changed.
void move_on(const BatchView&, const MovingRows&, const std::vector<int32_t>& drawn);

// Throws std::invalid_argument naming the field. After it, no array leads outside another one, the pool or the
// vocabulary.
void check(const BatchView&, const BatchLimits&);

}  // namespace legato
