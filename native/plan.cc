#include "plan.h"

#include <utility>

namespace legato {
namespace {

bool conflict(const Access& a, const Access& b) {
  if (a.resource.kind != b.resource.kind || a.resource.index != b.resource.index) return false;
  if (!a.write && !b.write) return false;
  if (a.rows && b.rows) return false;  // each thread meets only its own work
  return a.begin < b.end && b.begin < a.end;
}

}  // namespace

void Plan::append(Operation operation, const std::vector<Access>& accesses) {
  bool by_rows = true, barrier = false;
  for (const Access& now : accesses) {
    by_rows = by_rows && now.rows;
    for (const Access& earlier : since_barrier_) barrier = barrier || conflict(earlier, now);
  }
  if (!fixed_shares_ && !stages_.empty()) barrier = barrier || stages_.back().by_rows != by_rows;
  if (barrier) since_barrier_.clear();
  since_barrier_.insert(since_barrier_.end(), accesses.begin(), accesses.end());
  stages_.push_back({std::move(operation), by_rows, barrier});
}

}  // namespace legato
