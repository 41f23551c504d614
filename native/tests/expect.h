// What native tests say of a check that failed; main returns 1 if there were any.
#pragma once

#include <cstdio>
#include <string>

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAIL %s\n", what.c_str());
  ++failures;
}

}  // namespace
