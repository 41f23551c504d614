// What the stages of one step share.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "program.h"

namespace legato {

struct Program::Step {
  const BatchView& batch;
  StepOutput& output;
  int64_t logit_rows;
  RowSet all, read{};    // the batch's rows; those that want logits
  bool gathers = false;  // from the Gather on, only the latter
  std::vector<int32_t> read_positions = {}, read_sequences = {};
  std::unique_ptr<std::atomic<int64_t>[]> next_part = nullptr;  // by the first of the stages that a part passes through
  std::atomic<int64_t> next_sample{0};
  uint64_t first_turn = 0;  // the number of the step's first stage in Turns
  bool is_redrawn = false;
};

}  // namespace legato
