// How fast matrix products are, beside what the machine can do: memory read speed and dot-product peaks are measured
// in the same run, on the same threads. Times are those of the slowest thread on its processor (time given to other
// programs is not counted), best of several repetitions.
//
//   bench_matmul [--isa NAME] [--threads N] [--rows 1,8,512] [--only TEXT] [--seconds S]
//
// A workload is a list of matrices used one after another, larger than the caches, as a model's are.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "../include/kernels.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace legato;

namespace {

const char* const kNames[] = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double processor_time() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Runs `work(thread)` on all threads at once; threads wait in a loop, as short steps need.
class Crew {
 public:
  explicit Crew(int threads) : threads_(threads), seconds_((size_t)threads * 8) {
    for (int t = 1; t < threads; ++t) {
      workers_.emplace_back([this, t] {
        for (int64_t seen = 0;;) {
          while (turn_.load(std::memory_order_acquire) == seen) pause();
          ++seen;
          if (!work_) return;
          timed(t);
          done_.fetch_add(1, std::memory_order_release);
        }
      });
    }
  }
  ~Crew() {
    work_ = nullptr;
    turn_.fetch_add(1, std::memory_order_release);
    for (auto& worker : workers_) worker.join();
  }
  // Seconds of the slowest thread.
  double run(const std::function<void(int)>& work) {
    work_ = work;
    done_ = 0;
    turn_.fetch_add(1, std::memory_order_release);
    timed(0);
    while (done_.load(std::memory_order_acquire) != threads_ - 1) pause();
    return *std::max_element(seconds_.begin(), seconds_.end());
  }
  int size() const { return threads_; }

 private:
  void timed(int t) {
    const double start = processor_time();
    work_(t);
    seconds_[(size_t)t * 8] = processor_time() - start;
  }
  static void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }
  int threads_;
  std::vector<std::thread> workers_;
  std::function<void(int)> work_;
  std::atomic<int64_t> turn_{0};
  std::atomic<int> done_{0};
  std::vector<double> seconds_;  // one per cache line
};

struct Aligned {
  explicit Aligned(size_t bytes) : data((uint8_t*)std::aligned_alloc(1 << 21, (bytes + (1 << 21)) >> 21 << 21)) {}
  Aligned(Aligned&& other) noexcept : data(other.data) { other.data = nullptr; }
  ~Aligned() { std::free(data); }
  uint8_t* data;
};

// The best of what `work` returns.
double best(double seconds, const std::function<double()>& work) {
  double fastest = work();
  const double end = now() + seconds;
  for (int i = 0; i < 3 || now() < end; ++i) fastest = std::min(fastest, work());
  return fastest;
}

struct Machine {
  double read_gb, int8_gop, bf16_gflop, f32_gflop;
};

#if defined(__x86_64__)
// Twelve independent chains of one instruction.
#define LEGATO_PEAK(NAME, TARGET, INSTRUCTION, REGISTER)                                                   \
  __attribute__((target(TARGET))) void NAME(int64_t loops) {                                               \
    for (int64_t i = 0; i < loops; ++i) {                                                                  \
      asm volatile(INSTRUCTION "0\n" INSTRUCTION "1\n" INSTRUCTION "2\n" INSTRUCTION "3\n" INSTRUCTION     \
                               "4\n" INSTRUCTION "5\n" INSTRUCTION "6\n" INSTRUCTION "7\n" INSTRUCTION     \
                               "8\n" INSTRUCTION "9\n" INSTRUCTION "10\n" INSTRUCTION "11\n" ::            \
                                   : REGISTER "0", REGISTER "1", REGISTER "2", REGISTER "3", REGISTER "4", \
                                     REGISTER "5", REGISTER "6", REGISTER "7", REGISTER "8", REGISTER "9", \
                                     REGISTER "10", REGISTER "11");                                        \
    }                                                                                                      \
  }
LEGATO_PEAK(peak_int8, "avx512f,avx512vnni", "vpdpbusd %%zmm14, %%zmm15, %%zmm", "xmm")
LEGATO_PEAK(peak_bf16, "avx512f,avx512bf16", "vdpbf16ps %%zmm14, %%zmm15, %%zmm", "xmm")
LEGATO_PEAK(peak_f32_512, "avx512f", "vfmadd231ps %%zmm14, %%zmm15, %%zmm", "xmm")
LEGATO_PEAK(peak_f32_256, "avx2,fma", "vfmadd231ps %%ymm14, %%ymm15, %%ymm", "xmm")
LEGATO_PEAK(peak_int8_256, "avx2,fma", "vpmaddubsw %%ymm14, %%ymm15, %%ymm", "xmm")
#undef LEGATO_PEAK

double peak(Crew& crew, void (*loop)(int64_t), double per_instruction) {
  constexpr int64_t loops = 30000;
  const double seconds = best(0.2, [&] { return crew.run([&](int) { loop(loops); }); });
  return (double)loops * 12 * per_instruction * crew.size() / seconds / 1e9;
}
#endif

double read_speed(Crew& crew) {
  const int64_t bytes = 128 << 20;
  Aligned memory((size_t)(bytes * crew.size()));
  std::memset(memory.data, 1, (size_t)(bytes * crew.size()));
  std::vector<uint64_t> sums((size_t)crew.size() * 8);
  const double seconds = best(0.5, [&] {
    return crew.run([&](int t) {
      const uint64_t* p = (const uint64_t*)(memory.data + t * bytes);
      uint64_t a = 0, b = 0, c = 0, d = 0;
      for (int64_t i = 0; i < bytes / 8; i += 8) {
        __builtin_prefetch(p + i + 512);
        a ^= p[i] ^ p[i + 4];
        b ^= p[i + 1] ^ p[i + 5];
        c ^= p[i + 2] ^ p[i + 6];
        d ^= p[i + 3] ^ p[i + 7];
      }
      sums[(size_t)t * 8] = a ^ b ^ c ^ d;
    });
  });
  return (double)(bytes * crew.size()) / seconds / 1e9;
}

Machine measure(Crew& crew, const std::string& isa) {
  Machine m{read_speed(crew), 0, 0, 0};
#if defined(__x86_64__)
  if (kernels("avx2")) m.int8_gop = peak(crew, peak_int8_256, 64), m.f32_gflop = peak(crew, peak_f32_256, 16);
  if (isa.rfind("avx512", 0) == 0) m.f32_gflop = peak(crew, peak_f32_512, 32);
  if (isa == "avx512_vnni" || isa == "avx512_bf16") m.int8_gop = peak(crew, peak_int8, 128);
  if (isa == "avx512_bf16") m.bf16_gflop = peak(crew, peak_bf16, 64);
#endif
  return m;
}

struct Shape {
  Format format;
  int64_t outputs, columns;
};
struct Workload {
  std::string name;
  std::vector<Shape> shapes;
};

std::vector<Workload> workloads() {
  std::vector<Workload> all;
  const auto repeat = [&](std::string name, Format format, std::vector<std::pair<int64_t, int64_t>> sizes, int times) {
    Workload w{name + " " + kNames[(int)format], {}};
    for (int i = 0; i < times; ++i) {
      for (auto [outputs, columns] : sizes) w.shapes.push_back({format, outputs, columns});
    }
    all.push_back(w);
  };
  for (Format format : {Format::Q4_1, Format::Q4_0, Format::Q8_0, Format::BF16, Format::F16, Format::F32}) {
    repeat("SmolLM2 layers", format, {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}}, 30);
  }
  all.push_back(all[0]);
  all.back().name = "SmolLM2 layers Q4_1 + head Q8_0";
  all.back().shapes.push_back({Format::Q8_0, 49152, 576});
  repeat("SmolLM2 head", Format::Q8_0, {{49152, 576}}, 4);
  for (Format format :
       {Format::Q4_1, Format::Q4_K, Format::Q5_0, Format::Q5_K, Format::Q6_K, Format::Q8_0, Format::BF16}) {
    repeat("Llama-1B layers", format, {{3072, 2048}, {2048, 2048}, {16384, 2048}, {2048, 8192}}, 3);
    repeat("Llama-1B down", format, {{2048, 8192}}, 12);
  }
  repeat("Gemma-270M layers", Format::Q5_0, {{1536, 640}, {640, 1024}, {4096, 640}, {640, 2048}}, 18);
  repeat("Gemma-270M head", Format::Q8_0, {{262144, 640}}, 1);
  return all;
}

// A workload in memory, every matrix with its own bytes; values do not matter, but no slow subnormals.
struct Loaded {
  std::vector<Matrix> matrices;
  std::vector<Aligned> memory;
  int64_t weights = 0, bytes = 0, widest = 0, longest = 0;

  explicit Loaded(const Workload& w) {
    for (const Shape& s : w.shapes) {
      const int64_t tile_bytes = packed_tile_bytes(s.format, s.columns), tiles = (s.outputs + 15) / 16;
      memory.emplace_back((size_t)(tile_bytes * tiles));
      uint32_t* words = (uint32_t*)memory.back().data;
      for (int64_t i = 0; i < tile_bytes * tiles / 4; ++i) words[i] = 0x2c012c03u + (uint32_t)(i & 0x7f) * 0x10001u;
      matrices.push_back({s.format, s.outputs, s.columns, memory.back().data, tile_bytes});
      weights += s.outputs * s.columns;
      bytes += tile_bytes * tiles;
      widest = std::max(widest, tiles * 16);
      longest = std::max(longest, s.columns);
    }
  }
};

double run_seconds(Crew& crew, const Kernels& k, const Loaded& w, int64_t rows, double seconds) {
  std::vector<float> x((size_t)(rows * w.longest));
  for (size_t i = 0; i < x.size(); ++i) x[i] = (float)((int)(i * 7919 % 255) - 127) / 100.0f;
  std::vector<float> out((size_t)(rows * w.widest));
  const Aligned prepared((size_t)rows * (size_t)(w.longest * 4 + 128));
  int64_t columns = 0;
  RowForm form{};
  return best(seconds, [&] {
    double total = 0;
    for (const Matrix& m : w.matrices) {
      if (m.columns != columns || k.row_form(m.format) != form) {
        columns = m.columns;
        form = k.row_form(m.format);
        const int64_t record = (int64_t)k.row_bytes(form, columns);
        total += crew.run([&](int t) {
          const int64_t begin = rows * t / crew.size(), end = rows * (t + 1) / crew.size();
          k.prepare_rows(form, x.data() + begin * columns, columns, end - begin, columns,
                         prepared.data + begin * record);
        });
      }
      const int64_t tiles = (m.rows + 15) / 16;
      total += crew.run([&](int t) {
        k.matmul(m, prepared.data, rows, tiles * t / crew.size(), tiles * (t + 1) / crew.size(), out.data(), m.rows,
                 nullptr, false);
      });
    }
    return total;
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::string isa, only, row_list = "1,2,4,8,16,32,64,512";
  int threads = 2;
  double seconds = 0.3;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    if (flag == "--isa") isa = value;
    if (flag == "--only") only = value;
    if (flag == "--rows") row_list = value;
    if (flag == "--threads") threads = std::atoi(value.c_str());
    if (flag == "--seconds") seconds = std::atof(value.c_str());
  }
  for (const char* name : {"avx512_bf16", "avx512_vnni", "avx512", "avx2", "scalar"}) {
    if (isa.empty() && kernels(name)) isa = name;
  }
  const Kernels* k = kernels(isa.c_str());
  if (!k) return std::fprintf(stderr, "no such instruction set here: %s\n", isa.c_str()), 1;
  std::vector<int64_t> rows;
  std::stringstream list(row_list);
  for (std::string item; std::getline(list, item, ',');) rows.push_back(std::atoll(item.c_str()));

  Crew crew(threads);
  const Machine m = measure(crew, isa);
  std::printf("%s, %d threads: read %.1f GB/s, int8 %.0f GOP/s, bf16 %.0f GFLOP/s, f32 %.0f GFLOP/s\n", isa.c_str(),
              threads, m.read_gb, m.int8_gop, m.bf16_gflop, m.f32_gflop);
  std::printf("%-34s %5s %9s %8s %6s %8s %6s %10s\n", "workload", "rows", "ms", "GB/s", "read", "GOP/s", "peak",
              "rows/s");
  for (const Workload& w : workloads()) {
    if (w.name.find(only) == std::string::npos) continue;
    const Loaded loaded(w);
    const RowForm form = k->row_form(w.shapes[0].format);
    const double peak = form == RowForm::Q8 ? m.int8_gop : form == RowForm::BF16 ? m.bf16_gflop : m.f32_gflop;
    for (int64_t n : rows) {
      const double t = run_seconds(crew, *k, loaded, n, seconds);
      const double gb = (double)loaded.bytes / t / 1e9, gop = 2.0 * (double)(loaded.weights * n) / t / 1e9;
      std::printf("%-34s %5lld %9.3f %8.1f %5.0f%% %8.0f %5.0f%% %10.0f\n", w.name.c_str(), (long long)n, t * 1e3, gb,
                  gb / m.read_gb * 100, gop, peak > 0 ? gop / peak * 100 : 0.0, (double)n / t);
      std::fflush(stdout);
    }
  }
}
