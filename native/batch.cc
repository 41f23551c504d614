#include "batch.h"

#include <cmath>
#include <stdexcept>

#include "include/kernels.h"

namespace legato {
namespace {

[[noreturn]] void refuse(const std::string& field, const std::string& why) {
  throw std::invalid_argument(field + ": " + why);
}

[[noreturn]] void refuse_value(const std::string& field, int64_t index, int64_t value, int64_t end) {
  refuse(field,
         "entry " + std::to_string(index) + " is " + std::to_string(value) + ", not in 0.." + std::to_string(end - 1));
}

template <class T>
void check_length(const char* field, const View<T>& view, int64_t length) {
  if (view.rows != length) {
    refuse(field, "has " + std::to_string(view.rows) + " entries, expected " + std::to_string(length));
  }
}

// Every entry is in [0, end).
void check_range(const char* field, const View<int32_t>& view, int64_t end) {
  for (int64_t i = 0; i < view.rows * view.columns; ++i) {
    if (view[i] < 0 || view[i] >= end) refuse_value(field, i, view[i], end);
  }
}

// One entry a row, each in [-1, end).
void check_choice(const char* field, const View<int32_t>& view, int64_t rows, int64_t end) {
  check_length(field, view, rows);
  for (int64_t r = 0; r < rows; ++r) {
    if (view[r] < -1 || view[r] >= end) refuse_value(field, r, view[r], end);
  }
}

void check_rows(const BatchView& batch, const BatchLimits& limits) {
  const int64_t tokens = batch.token_ids.rows;
  if (tokens < 1 || tokens > limits.max_tokens) {
    refuse("token_ids", std::to_string(tokens) + " rows, not in 1.." + std::to_string(limits.max_tokens));
  }
  check_length("positions", batch.positions, tokens);
  check_length("sequences", batch.sequences, tokens);
  check_length("slots", batch.slots, tokens);
  if (limits.input_vocabulary > 0) check_range("token_ids", batch.token_ids, limits.input_vocabulary);
  check_range("sequences", batch.sequences, batch.block_tables.rows);
  if (limits.blocks > 0) check_range("slots", batch.slots, limits.blocks * kBlock);
}

// Rows of a sequence are consecutive, their positions ascend, and its table names a block for each of them.
void check_sequences(const BatchView& batch, const BatchLimits& limits) {
  const int64_t tokens = batch.token_ids.rows, stride = batch.block_tables.columns;
  std::vector<char> seen(batch.block_tables.rows, 0);
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t sequence = batch.sequences[t], position = batch.positions[t];
    if (position < 0) refuse("positions", "entry " + std::to_string(t) + " is negative");
    const bool continues = t > 0 && batch.sequences[t - 1] == sequence;
    if (continues && batch.positions[t - 1] >= position) {
      refuse("positions", "entry " + std::to_string(t) + " does not ascend within its sequence");
    }
    if (!continues && seen[sequence]) {
      refuse("sequences", "rows of sequence " + std::to_string(sequence) + " are not consecutive");
    }
    seen[sequence] = 1;
    const bool last = t + 1 == tokens || batch.sequences[t + 1] != sequence;
    if (!last || limits.blocks == 0) continue;
    const int64_t used = position / kBlock + 1;
    if (used > stride) {
      refuse("block_tables",
             "row " + std::to_string(sequence) + " has no block for position " + std::to_string(position));
    }
    const int32_t* table = batch.block_tables.data + sequence * stride;
    for (int64_t i = 0; i < used; ++i) {
      if (table[i] < 0 || table[i] >= limits.blocks) {
        refuse_value("block_tables", sequence * stride + i, table[i], limits.blocks);
      }
    }
  }
}

void check_indptr(const char* field, const View<int32_t>& indptr, int64_t rows, int64_t ids) {
  check_length(field, indptr, rows + 1);
  if (indptr[0] != 0) refuse(field, "does not start at 0");
  for (int64_t r = 0; r < rows; ++r) {
    if (indptr[r + 1] < indptr[r]) refuse(field, "descends at row " + std::to_string(r));
  }
  if (indptr[rows] != ids) refuse(field, "ends at " + std::to_string(indptr[rows]) + ", not at " + std::to_string(ids));
}

// Finite and not below `least`.
void check_number(const char* field, const View<float>& view, int64_t rows, float least) {
  check_length(field, view, rows);
  for (int64_t r = 0; r < rows; ++r) {
    if (!std::isfinite(view[r]) || view[r] < least) {
      refuse(field, "entry " + std::to_string(r) + " is " + std::to_string(view[r]));
    }
  }
}

void check_numbers(const SamplingView& sampling, int64_t rows) {
  constexpr float any = -3.4e38f;
  check_number("temperature", sampling.temperature, rows, 0.0f);
  check_number("top_p", sampling.top_p, rows, 0.0f);
  check_number("min_p", sampling.min_p, rows, 0.0f);
  check_number("repetition_penalty", sampling.repetition_penalty, rows, 0.0f);
  check_number("presence_penalty", sampling.presence_penalty, rows, any);
  check_number("frequency_penalty", sampling.frequency_penalty, rows, any);
  check_length("top_k", sampling.top_k, rows);
  check_length("seed", sampling.seed, rows);
  check_length("draw_position", sampling.draw_position, rows);
  for (int64_t r = 0; r < rows; ++r) {
    if (sampling.top_k[r] < 0) refuse("top_k", "entry " + std::to_string(r) + " is negative");
    if (sampling.repetition_penalty[r] == 0.0f) refuse("repetition_penalty", "entry " + std::to_string(r) + " is 0");
  }
}

void check_masks(const SamplingView& sampling, int64_t rows, int64_t vocabulary) {
  const View<uint32_t>& masks = sampling.masks;
  check_choice("mask_index", sampling.mask_index, rows, masks.rows);
  check_choice("fallback_index", sampling.fallback_index, rows, masks.rows);
  const int64_t words = (vocabulary + 31) / 32;
  if (masks.rows > 0 && masks.columns != words) {
    refuse("masks", "has " + std::to_string(masks.columns) + " words a row, expected " + std::to_string(words));
  }
}

void check_sampling(const SamplingView& sampling, int64_t rows, int64_t vocabulary) {
  check_numbers(sampling, rows);
  check_choice("forced", sampling.forced, rows, vocabulary);
  check_choice("num_logprobs", sampling.num_logprobs, rows, vocabulary + 1);
  check_masks(sampling, rows, vocabulary);
  check_indptr("prompt_indptr", sampling.prompt_indptr, rows, sampling.prompt_ids.rows);
  check_indptr("output_indptr", sampling.output_indptr, rows, sampling.output_ids.rows);
  check_indptr("bias_indptr", sampling.bias_indptr, rows, sampling.bias_ids.rows);
  check_range("prompt_ids", sampling.prompt_ids, vocabulary);
  check_range("output_ids", sampling.output_ids, vocabulary);
  check_range("bias_ids", sampling.bias_ids, vocabulary);
  check_length("bias_values", sampling.bias_values, sampling.bias_ids.rows);
}

void check_logit_rows(const BatchView& batch, const BatchLimits& limits) {
  const int64_t rows = batch.logit_rows.rows;
  if (rows > limits.max_logit_rows) {
    refuse("logit_rows", std::to_string(rows) + " rows, at most " + std::to_string(limits.max_logit_rows));
  }
  if (rows > 0 && limits.output_vocabulary == 0) refuse("logit_rows", "the program has no head");
  check_range("logit_rows", batch.logit_rows, batch.token_ids.rows);
  for (int64_t r = 1; r < rows; ++r) {
    if (batch.logit_rows[r] <= batch.logit_rows[r - 1]) {
      refuse("logit_rows", "entry " + std::to_string(r) + " does not ascend");
    }
  }
  check_sampling(batch.sampling, rows, limits.output_vocabulary);
}

}  // namespace

void move_on(const BatchView& batch, const MovingRows& rows, const std::vector<int32_t>& drawn) {
  const int64_t count = batch.token_ids.rows, stride = batch.block_tables.columns;
  if (static_cast<int64_t>(drawn.size()) != count) {
    refuse("tokens", "has " + std::to_string(drawn.size()) + " entries, expected " + std::to_string(count));
  }
  check_range("sequences", batch.sequences, batch.block_tables.rows);
  for (int64_t t = 0; t < count; ++t) {
    const int64_t next = int64_t{rows.positions[t]} + 1;
    if (next < 0 || next >= stride * kBlock) {
      refuse("block_tables",
             "row " + std::to_string(batch.sequences[t]) + " has no block for position " + std::to_string(next));
    }
  }
  for (int64_t t = 0; t < count; ++t) {
    const int32_t position = ++rows.positions[t];
    const int32_t* table = batch.block_tables.data + batch.sequences[t] * stride;
    rows.token_ids[t] = drawn[t];
    rows.slots[t] = table[position / kBlock] * kBlock + position % kBlock;
    ++rows.draw_position[t];
  }
}

void check(const BatchView& batch, const BatchLimits& limits) {
  check_rows(batch, limits);
  check_sequences(batch, limits);
  if (batch.block_copies.rows > 0) {
    if (batch.block_copies.columns != 2) refuse("block_copies", "must have two columns");
    check_range("block_copies", batch.block_copies, limits.blocks);
  }
  check_logit_rows(batch, limits);
}

}  // namespace legato
