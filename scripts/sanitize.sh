#!/bin/sh
# Builds native/tests with the compiler's sanitizers and runs them: memory errors and undefined behaviour in all of
# them, data races in those of the thread team. Called by `make sanitize`, with cmake and ninja on the path.
# Operators are built plain and for AVX2, which share nearly all their source with the wider sets; AVX512=ON builds
# those, too, which takes several times as long.
set -eu
folder=build/sanitize-address
mkdir -p "$folder" build/sanitize-thread
cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLEGATO_PYTHON_MODULE=OFF -DLEGATO_NATIVE_TESTS=ON \
  -DLEGATO_SANITIZE=address,undefined -DLEGATO_AVX512="${AVX512:-OFF}" >"$folder/configured.txt" ||
  { cat "$folder/configured.txt"; exit 1; }
echo "legato: the native tests with -fsanitize=address,undefined"
ninja -C "$folder" --quiet
ctest --test-dir "$folder" --output-on-failure

# The team, its barriers and turns need no operator, which would be slow to build with every access watched.
echo "legato: the tests of the thread team with -fsanitize=thread"
${CXX:-c++} -std=c++20 -O1 -g1 -fsanitize=thread -pthread native/tests/test_threads.cc native/threads.cc \
  native/plan.cc -o build/sanitize-thread/test_threads
build/sanitize-thread/test_threads
