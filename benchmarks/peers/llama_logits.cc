// Logits of llama.cpp for given tokens: llama-logits MODEL.gguf IDS.i32 LOGITS.f32 WINDOW
// IDS holds int32 token ids, read in windows of WINDOW tokens that start anew; LOGITS gets [tokens, vocabulary]
// in float32. Everything else is llama.cpp's default.
#include <llama.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "llama-logits: %s\n", what);
  std::exit(1);
}

std::vector<llama_token> read_ids(const char* path) {
  FILE* file = std::fopen(path, "rb");
  if (!file) fail("cannot read the token ids");
  std::vector<llama_token> ids;
  for (llama_token id; std::fread(&id, sizeof id, 1, file) == 1;) ids.push_back(id);
  std::fclose(file);
  return ids;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) fail("usage: llama-logits MODEL.gguf IDS.i32 LOGITS.f32 WINDOW");
  const auto ids = read_ids(argv[2]);
  const size_t window = std::strtoul(argv[4], nullptr, 10);
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (!model) fail("cannot load the model");
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = (uint32_t)window;
  llama_context* context = llama_init_from_model(model, params);
  if (!context) fail("cannot make a context");
  const size_t vocabulary = (size_t)llama_vocab_n_tokens(llama_model_get_vocab(model));
  FILE* out = std::fopen(argv[3], "wb");
  if (!out) fail("cannot write the logits");
  llama_batch batch = llama_batch_init((int32_t)window, 0, 1);
  for (size_t begin = 0; begin < ids.size(); begin += window) {
    const size_t count = std::min(window, ids.size() - begin);
    batch.n_tokens = (int32_t)count;
    for (size_t i = 0; i < count; ++i) {
      batch.token[i] = ids[begin + i];
      batch.pos[i] = (llama_pos)i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    llama_memory_clear(llama_get_memory(context), true);
    if (llama_decode(context, batch)) fail("cannot run a window");
    for (size_t i = 0; i < count; ++i)
      std::fwrite(llama_get_logits_ith(context, (int32_t)i), sizeof(float), vocabulary, out);
  }
  return std::fclose(out) ? 1 : 0;
}
