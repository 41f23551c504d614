// What the stages of one step share.
#pragma once
#include <atomic>
#include <memory>

#include "program.h"

namespace legato {

struct Program::Step {
  const BatchView& batch;
  StepOutput& output;
  int64_t tokens, logit_rows;
  bool many_rows;  // products are shared by rows; a thread takes one part of the rows after the other
  int64_t part_rows = 0, parts = 0;
  std::unique_ptr<std::atomic<int64_t>[]> next_part = nullptr;  // by the first of the stages that a part passes through
  std::atomic<int64_t> next_sample{0};
  uint64_t first_turn = 0;  // the number of the step's first stage in Turns
  bool is_redrawn = false;
};

}  // namespace legato
