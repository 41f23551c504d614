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

void Plan::append(Operation operation, std::vector<Access> accesses) {
  bool barrier = false;
  for (const Access& earlier : since_barrier_) {
    for (const Access& now : accesses) barrier = barrier || conflict(earlier, now);
  }
  if (barrier) since_barrier_.clear();
  since_barrier_.insert(since_barrier_.end(), accesses.begin(), accesses.end());
  stages_.push_back({std::move(operation), barrier});
}

}  // namespace legato
