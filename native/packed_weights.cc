#include "packed_weights.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include "threads.h"

namespace legato {
namespace {

// Closes a descriptor with its scope.
struct File {
  explicit File(const std::string& path) : descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~File() {
    if (descriptor >= 0) close(descriptor);
  }
  const int descriptor;
};

// 0, or what went wrong. An end of the file before `bytes` are there is EIO.
int read_all(int descriptor, uint8_t* to, int64_t bytes, int64_t offset) {
  while (bytes > 0) {
    const ssize_t got = pread(descriptor, to, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? errno : EIO;
    to += got, offset += got, bytes -= got;
  }
  return 0;
}

}  // namespace

PackedWeights::PackedWeights(const std::string& path, int64_t offset, int64_t bytes, int threads)
    : memory_(static_cast<size_t>(bytes), Pages::Huge) {
  const File file(path);
  std::atomic<int> problem{file.descriptor < 0 ? errno : 0};
  std::vector<std::thread> readers;
  constexpr int64_t kPage = int64_t{2} << 20;
  for (int thread = 0; problem == 0 && thread < threads; ++thread) {
    const Share pages = share((bytes + kPage - 1) / kPage, thread, threads);  // no two touch the same page first
    const int64_t begin = pages.begin * kPage, end = pages.end * kPage < bytes ? pages.end * kPage : bytes;
    const auto read = [&, begin, end] {
      const int error = read_all(file.descriptor, memory_.data() + begin, end - begin, offset + begin);
      if (error != 0) problem = error;
    };
    if (begin >= end) continue;
    if (thread + 1 < threads) {
      readers.emplace_back(read);
    } else {
      read();
    }
  }
  for (std::thread& reader : readers) reader.join();
  if (problem != 0) throw std::runtime_error(path + ": " + std::strerror(problem));
}

uint64_t checksum(const uint8_t* data, size_t bytes) {
  constexpr size_t kLanes64 = 8;  // independent chains, so that the multiplier is kept busy
  uint64_t lanes[kLanes64], words[kLanes64];
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15u;
  for (size_t lane = 0; lane < kLanes64; ++lane) lanes[lane] = kOdd + lane;
  const auto absorb = [&] {
    for (size_t lane = 0; lane < kLanes64; ++lane) {  // each step is one to one in the word
      const uint64_t mixed = (lanes[lane] ^ words[lane]) * kOdd;
      lanes[lane] = mixed ^ mixed >> 32;
    }
  };
  size_t at = 0;
  for (; at + sizeof words <= bytes; at += sizeof words) {
    std::memcpy(words, data + at, sizeof words);
    absorb();
  }
  std::memset(words, 0, sizeof words);
  if (at < bytes) std::memcpy(words, data + at, bytes - at);
  absorb();
  uint64_t sum = bytes;
  for (uint64_t lane : lanes) sum = (sum ^ lane) * kOdd, sum ^= sum >> 29;
  return sum;
}

}  // namespace legato
