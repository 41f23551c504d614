#!/bin/sh
# Builds native/tests with the compiler's sanitizers and runs them: memory errors and undefined behaviour in all of
# them, data races in those of the thread team and of whole programs that it runs. Called by `make sanitize`, with cmake
# and ninja on the path. Operators are built plain and for AVX2, which share nearly all their source with the wider
# sets; AVX512=ON builds those, too, which takes several times as long.
set -eu

# flavour NAME SANITIZERS TARGETS...
flavour() {
  folder=build/sanitize-$1 sanitizers=$2
  shift 2
  mkdir -p "$folder"
  cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLEGATO_PYTHON_MODULE=OFF -DLEGATO_NATIVE_TESTS=ON \
    "-DLEGATO_SANITIZE=$sanitizers" -DLEGATO_AVX512="${AVX512:-OFF}" >"$folder/configured.txt" ||
    { cat "$folder/configured.txt"; exit 1; }
  echo "legato: the native tests with -fsanitize=$sanitizers"
  ninja -C "$folder" --quiet "$@"
}

flavour address address,undefined
ctest --test-dir build/sanitize-address --output-on-failure

AVX512=OFF
flavour thread thread test_threads test_program
ctest --test-dir build/sanitize-thread --output-on-failure -R '^test_(threads|program)$'
