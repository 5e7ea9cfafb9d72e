#include "variants.h"

#include <stdlib.h>
#include <string.h>

namespace leanedge::cuda {
namespace {

Variants values;
bool known;

// The number behind `name=` in `text`; `otherwise` where there is none, or it lies outside of 0 .. most.
int32_t value_of(const char* text, const char* name, int32_t most, int32_t otherwise) {
  const size_t length = strlen(name);
  for (const char* at = text; (at = strstr(at, name)) != nullptr; at += length) {
    if ((at != text && at[-1] != ',') || at[length] != '=') continue;
    const long value = strtol(at + length + 1, nullptr, 10);
    return value >= 0 && value <= most ? static_cast<int32_t>(value) : otherwise;
  }
  return otherwise;
}

}  // namespace

void variants_read() {
  values = Variants{};
  known = true;
  const char* text = getenv("LEANEDGE_CUDA_VARIANTS");
  if (!text) return;
  values.share_min = value_of(text, "share_min", 1 << 20, values.share_min);
  if (values.share_min < 1) values.share_min = 1;
  values.share_wide = value_of(text, "share_wide", 1 << 20, values.share_wide);
  if (values.share_wide < 1) values.share_wide = 1;
  values.merge_group = value_of(text, "merge_group", 256, values.merge_group);
  values.wide_pairs = value_of(text, "wide_pairs", 1 << 16, values.wide_pairs);
  values.cluster_pages = value_of(text, "cluster_pages", 1 << 16, values.cluster_pages);
  values.next_bytes = value_of(text, "next_bytes", 1 << 26, values.next_bytes);
  values.next_far_bytes = value_of(text, "next_far_bytes", 1 << 26, values.next_far_bytes);
  values.halves = value_of(text, "halves", 1, values.halves);
  values.balance = value_of(text, "balance", 1, values.balance);
  values.rotate_early = value_of(text, "rotate_early", 1, values.rotate_early);
}

const Variants& variants() {
  if (!known) variants_read();
  return values;
}

}  // namespace leanedge::cuda
