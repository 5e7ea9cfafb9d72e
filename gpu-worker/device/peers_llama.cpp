// How fast llama.cpp runs a model on this machine: steps at one and at more sequences behind a prompt, and prompts alone.
//
//   peers_llama LIBRARIES MODEL CASE...
//
// LIBRARIES: the folder of its libraries; without libggml-cuda.so in it everything runs on the processor. MODEL: a GGUF file. CASE:
// decode:SEQUENCES:BEHIND:STEPS or prompt:TOKENS:UBATCH. Flash attention is on, K and V are f16, tokens are random. Prints a line of
// JSON a case: medians, times in milliseconds. The program is compiled against the headers of llama.cpp's own release (pack-peers.sh).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"

namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Random tokens for rows of a batch: `tokens` at each of `sequences`, from `position` on; the last of each gives logits.
class Batch {
 public:
  Batch(int32_t vocabulary, int32_t rows) : batch_(llama_batch_init(rows, 0, 1)), tokens_(0, vocabulary - 1) {}
  ~Batch() { llama_batch_free(batch_); }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  // What llama_decode says: 0 where all went well.
  int32_t run(llama_context* context, int32_t first, int32_t sequences, int32_t position, int32_t tokens) {
    batch_.n_tokens = 0;
    for (int32_t sequence = first; sequence < first + sequences; ++sequence) {
      for (int32_t i = 0; i < tokens; ++i) {
        const int32_t row = batch_.n_tokens++;
        batch_.token[row] = tokens_(random_);
        batch_.pos[row] = position + i;
        batch_.n_seq_id[row] = 1;
        batch_.seq_id[row][0] = sequence;
        batch_.logits[row] = i == tokens - 1;
      }
    }
    const int32_t status = llama_decode(context, batch_);
    llama_synchronize(context);
    return status;
  }

 private:
  llama_batch batch_;
  std::mt19937 random_{1};
  std::uniform_int_distribution<int32_t> tokens_;
};

llama_context* open_context(llama_model* model, int32_t tokens, int32_t sequences, int32_t batch, int32_t ubatch) {
  llama_context_params params = llama_context_default_params();
  // Every sequence has as many cells of its own; attention wants multiples of 256.
  params.n_ctx = static_cast<uint32_t>((tokens + 255) / 256 * 256 * sequences);
  params.n_batch = static_cast<uint32_t>(batch);
  params.n_ubatch = static_cast<uint32_t>(ubatch);
  params.n_seq_max = static_cast<uint32_t>(sequences);
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  params.kv_unified = false;
  // With a GPU the processor only looks embeddings up.
  params.n_threads = params.n_threads_batch = static_cast<int32_t>(std::clamp(std::thread::hardware_concurrency(), 1U, 4U));
  return llama_init_from_model(model, params);
}

// Whether the last row's logits are numbers, and not all the same.
bool has_logits(llama_context* context, llama_model* model) {
  const float* logits = llama_get_logits_ith(context, -1);
  if (logits == nullptr) return false;
  const int32_t count = llama_vocab_n_tokens(llama_model_get_vocab(model));
  const auto [least, most] = std::minmax_element(logits, logits + count);
  return std::all_of(logits, logits + count, [](float x) { return std::isfinite(x); }) && *least < *most;
}

bool decode(llama_model* model, int32_t sequences, int32_t behind, int32_t steps) {
  llama_context* context = open_context(model, behind + steps, sequences, std::max(behind, sequences), 2048);
  if (context == nullptr) return false;
  Batch batch(llama_vocab_n_tokens(llama_model_get_vocab(model)), std::max(behind, sequences));
  bool good = true;
  for (int32_t sequence = 0; sequence < sequences; ++sequence) {
    good = good && batch.run(context, sequence, 1, 0, behind) == 0;
  }
  std::vector<double> times;
  for (int32_t step = 0; good && step < steps; ++step) {
    const Clock::time_point begin = Clock::now();
    good = batch.run(context, 0, sequences, behind + step, 1) == 0;
    // The first steps record CUDA graphs.
    if (step >= 4) times.push_back(milliseconds_since(begin));
  }
  good = good && has_logits(context, model);
  llama_free(context);
  const double ms = median(times);
  if (good && ms > 0) {
    std::printf("{\"case\": \"decode\", \"sequences\": %d, \"behind\": %d, \"steps\": %zu, \"ms\": %.4f, \"tokens_s\": %.2f}\n",
                sequences, behind, times.size(), ms, 1e3 * sequences / ms);
  }
  return good && ms > 0;
}

bool prompt(llama_model* model, int32_t tokens, int32_t ubatch) {
  constexpr int rounds = 4;
  llama_context* context = open_context(model, tokens, 1, tokens, ubatch);
  if (context == nullptr) return false;
  Batch batch(llama_vocab_n_tokens(llama_model_get_vocab(model)), tokens);
  std::vector<double> times;
  bool good = true;
  for (int round = 0; good && round < rounds; ++round) {
    llama_memory_clear(llama_get_memory(context), true);
    const Clock::time_point begin = Clock::now();
    good = batch.run(context, 0, 1, 0, tokens) == 0;
    if (round > 0) times.push_back(milliseconds_since(begin));  // the first loads kernels
  }
  good = good && has_logits(context, model);
  llama_free(context);
  const double ms = median(times);
  if (good) {
    std::printf("{\"case\": \"prompt\", \"tokens\": %d, \"ubatch\": %d, \"ms\": %.3f, \"tokens_s\": %.1f}\n", tokens,
                ubatch, ms, 1e3 * tokens / ms);
  }
  return good;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4) {
    std::fprintf(stderr, "usage: peers_llama LIBRARIES MODEL CASE...\n");
    return 2;
  }
  // Of the processors' backends the best that runs here, and the GPU's where it lies there.
  ggml_backend_load_all_from_path(arguments[1]);
  if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) {
    std::fprintf(stderr, "no backend for this processor in %s\n", arguments[1]);
    return 1;
  }
  ggml_backend_dev_t gpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU);
  const bool wants_gpu = std::filesystem::exists(std::filesystem::path(arguments[1]) / "libggml-cuda.so");
  if (wants_gpu && gpu == nullptr) {
    std::fprintf(stderr, "libggml-cuda.so finds no GPU\n");
    return 1;
  }
  llama_backend_init();
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = gpu != nullptr ? 999 : 0;
  const Clock::time_point begin = Clock::now();
  llama_model* model = llama_model_load_from_file(arguments[2], params);
  if (model == nullptr) return 1;
  std::printf("{\"case\": \"load\", \"device\": \"%s\", \"seconds\": %.2f}\n", gpu != nullptr ? ggml_backend_dev_description(gpu) : "CPU",
              milliseconds_since(begin) / 1e3);
  std::fflush(stdout);
  int failed = 0;
  for (int i = 3; i < count; ++i) {
    int32_t a = 0;
    int32_t b = 0;
    int32_t c = 0;
    bool good = false;
    if (std::sscanf(arguments[i], "decode:%d:%d:%d", &a, &b, &c) == 3) {
      good = decode(model, a, b, c);
    } else if (std::sscanf(arguments[i], "prompt:%d:%d", &a, &b) == 2) {
      good = prompt(model, a, b);
    }
    if (!good) {
      std::printf("{\"case\": \"failed\", \"what\": \"%s\"}\n", arguments[i]);
      ++failed;
    }
    std::fflush(stdout);
  }
  llama_model_free(model);
  return failed == 0 ? 0 : 1;
}
