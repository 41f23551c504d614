// How fast matrix products are, beside what the machine can do, measured in the same run on the same threads: the peak
// of the dot instruction before each workload, and after each repetition a plain read of the same weights. Times are
// those of the slowest thread on its processor (time given to other programs is not counted); medians.
//   read   share of the read speed (of the neighbouring reading, so that a slow moment counts for both)
//   peak   share of the dot peak
//   roof   what the slower of the two would take, of what the product took
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
#include "../memory.h"
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

// The best of what `work` returns.
double best(double seconds, const std::function<double()>& work) {
  double fastest = work();
  const double end = now() + seconds;
  for (int i = 0; i < 3 || now() < end; ++i) fastest = std::min(fastest, work());
  return fastest;
}

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
  const double seconds = best(0.03, [&] { return crew.run([&](int) { loop(loops); }); });
  return (double)loops * 12 * per_instruction * crew.size() / seconds / 1e9;
}
#endif

// Reads 64-byte lines as fast as they come; memory is left to the hardware's prefetching.
#if defined(__x86_64__)
__attribute__((target("avx2"), noinline)) uint64_t read_lines(const uint8_t* p, int64_t bytes) {
  __m256i a = _mm256_setzero_si256(), b = a;
  for (int64_t i = 0; i < bytes; i += 64) {
    a = _mm256_xor_si256(a, _mm256_load_si256((const __m256i*)(p + i)));
    b = _mm256_xor_si256(b, _mm256_load_si256((const __m256i*)(p + i + 32)));
  }
  return (uint64_t)_mm256_extract_epi64(_mm256_xor_si256(a, b), 0);
}
#else
uint64_t read_lines(const uint8_t* p, int64_t bytes) {
  uint64_t a = 0;
  for (int64_t i = 0; i < bytes / 8; ++i) a ^= ((const uint64_t*)p)[i];
  return a;
}
#endif

struct Machine {
  double int8_gop, bf16_gflop, f32_gflop;
};

Machine measure(Crew& crew, const std::string& isa) {
  Machine m{0, 0, 0};
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
  for (Format format : {Format::Q4_1, Format::Q8_0, Format::BF16}) {
    repeat("Llama-1B head", format, {{128256, 2048}}, 1);
  }
  for (Format format :
       {Format::Q4_1, Format::Q4_K, Format::Q5_0, Format::Q5_K, Format::Q6_K, Format::Q8_0, Format::BF16}) {
    repeat("Llama-1B layers", format, {{3072, 2048}, {2048, 2048}, {16384, 2048}, {2048, 8192}}, 3);
    repeat("Llama-1B down", format, {{2048, 8192}}, 12);
  }
  for (Format format : {Format::Q4_1, Format::Q4_K}) {
    repeat("Qwen2.5-7B layers", format, {{4608, 3584}, {3584, 3584}, {37888, 3584}, {3584, 18944}}, 2);
  }
  repeat("Gemma-270M layers", Format::Q5_0, {{1536, 640}, {640, 1024}, {4096, 640}, {640, 2048}}, 18);
  repeat("Gemma-270M head", Format::Q8_0, {{262144, 640}}, 1);
  return all;
}

// A workload in memory, every matrix with its own bytes; values do not matter, but no slow subnormals.
struct Loaded {
  std::vector<Matrix> matrices;
  Region memory;
  int64_t weights = 0, bytes = 0, widest = 0, longest = 0;

  explicit Loaded(const Workload& w) {
    for (const Shape& s : w.shapes) bytes += packed_tile_bytes(s.format, s.columns) * ((s.outputs + 15) / 16);
    memory = Region((size_t)bytes, Pages::Huge);
    uint32_t* words = (uint32_t*)memory.data();
    for (int64_t i = 0; i < bytes / 4; ++i) words[i] = 0x2c012c03u + (uint32_t)(i & 0x7f) * 0x10001u;
    const uint8_t* data = memory.data();
    for (const Shape& s : w.shapes) {
      const int64_t tile_bytes = packed_tile_bytes(s.format, s.columns), tiles = (s.outputs + 15) / 16;
      matrices.push_back({s.format, s.outputs, s.columns, data, tile_bytes});
      data += tile_bytes * tiles;
      weights += s.outputs * s.columns;
      widest = std::max(widest, tiles * 16);
      longest = std::max(longest, s.columns);
    }
  }
};

// The rows that a product works on, and where its results go.
struct Rows {
  int64_t count;
  std::vector<float> x, out;
  Region prepared;
  Rows(int64_t count, const Loaded& w)
      : count(count),
        x((size_t)(count * w.longest)),
        out((size_t)(count * w.widest)),
        prepared((size_t)count * (size_t)(w.longest * 4 + 128), Pages::Small) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = (float)((int)(i * 7919 % 255) - 127) / 100.0f;
  }
};

// Seconds of one pass over the workload. Rows are prepared where they change, as in a model: each thread its share.
double products(Crew& crew, const Kernels& k, const Loaded& w, Rows& rows) {
  int64_t columns = 0;
  RowForm form{};
  double total = 0;
  for (const Matrix& m : w.matrices) {
    if (m.columns != columns || k.row_form(m.format) != form) {
      columns = m.columns;
      form = k.row_form(m.format);
      const int64_t record = (int64_t)k.row_bytes(form, columns);
      total += crew.run([&](int t) {
        const int64_t begin = rows.count * t / crew.size(), end = rows.count * (t + 1) / crew.size();
        k.prepare_rows(form, rows.x.data() + begin * columns, columns, end - begin, columns,
                       rows.prepared.data() + begin * record);
      });
    }
    const int64_t tiles = (m.rows + 15) / 16;
    total += crew.run([&](int t) {
      k.matmul(m, rows.prepared.data(), rows.count, tiles * t / crew.size(), tiles * (t + 1) / crew.size(),
               rows.out.data(), m.rows, nullptr, false);
    });
  }
  return total;
}

double reading(Crew& crew, const Loaded& w) {
  static volatile uint64_t sums[64 * 8];
  return crew.run([&](int t) {
    const int64_t lines = w.bytes / 64, begin = lines * t / crew.size(), end = lines * (t + 1) / crew.size();
    sums[t % 64 * 8] = read_lines(w.memory.data() + begin * 64, (end - begin) * 64);
  });
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Timing {
  double seconds, read_seconds, read_share;
};

Timing time_rows(Crew& crew, const Kernels& k, const Loaded& w, int64_t count, double seconds) {
  Rows rows(count, w);
  std::vector<double> product, read, share;
  const double end = now() + seconds;
  products(crew, k, w, rows);
  do {
    product.push_back(products(crew, k, w, rows));
    read.push_back(reading(crew, w));
    share.push_back(read.back() / product.back());
  } while (product.size() < 5 || now() < end);
  return {median(product), median(read), median(share)};
}

}  // namespace

int main(int argc, char** argv) {
  std::string isa, only, row_list = "1,2,4,8,16,32,64,128,512";
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
  std::printf("%s, %d threads\n", isa.c_str(), threads);
  for (const Workload& w : workloads()) {
    if (w.name.find(only) == std::string::npos) continue;
    const Machine m = measure(crew, isa);
    const Loaded loaded(w);
    const RowForm form = k->row_form(w.shapes[0].format);
    const double peak = form == RowForm::Q8 ? m.int8_gop : form == RowForm::BF16 ? m.bf16_gflop : m.f32_gflop;
    std::printf("%s: %.0f MB; int8 %.0f GOP/s, bf16 %.0f GFLOP/s, f32 %.0f GFLOP/s\n", w.name.c_str(),
                (double)loaded.bytes / 1e6, m.int8_gop, m.bf16_gflop, m.f32_gflop);
    std::printf("%7s %9s %7s %9s %6s %8s %6s %6s %9s\n", "rows", "ms", "GB/s", "(plain)", "read", "GOP/s", "peak",
                "roof", "rows/s");
    for (int64_t n : rows) {
      if (loaded.widest > 32768 && n > 64) continue;  // a head sees a row of each sequence
      const Timing t = time_rows(crew, *k, loaded, n, seconds);
      const double gb = (double)loaded.bytes / 1e9, gop = 2.0 * (double)(loaded.weights * n) / t.seconds / 1e9;
      const double peak_share = peak > 0 ? gop / peak : 0.0;
      std::printf("%7lld %9.3f %7.1f %9.1f %5.0f%% %8.0f %5.0f%% %5.0f%% %9.0f\n", (long long)n, t.seconds * 1e3,
                  gb / t.seconds, gb / t.read_seconds, t.read_share * 100, gop, peak_share * 100,
                  std::max(t.read_share, peak_share) * 100, (double)n / t.seconds);
      std::fflush(stdout);
    }
  }
}
