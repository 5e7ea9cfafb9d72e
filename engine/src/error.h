// Puts an ErrorDetail together: thing, value and bound, without stdio.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/status.h"

namespace leanedge {

// Writes `format` to `out`, each '#' replaced by the next of `args`; cut at `size`, NUL-terminated.
inline void message_format(char* out, size_t size, const char* format, const int64_t* args,
                           size_t arg_count) {
  size_t at = 0;
  size_t next = 0;
  for (; *format && at + 1 < size; ++format) {
    if (*format != '#' || next == arg_count) {
      out[at++] = *format;
      continue;
    }
    const int64_t value = args[next++];
    uint64_t rest = value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
    char digits[20];
    size_t count = 0;
    do {
      digits[count++] = static_cast<char>('0' + rest % 10);
      rest /= 10;
    } while (rest);
    if (value < 0) out[at++] = '-';
    while (count && at + 1 < size) out[at++] = digits[--count];
  }
  out[at < size ? at : size - 1] = '\0';
}

// Fills `detail` in, if there is one, and returns `status`. Name thing, value and bound: every '#'
// of `format` stands for one of `args`.
template <size_t N>
Status error_set(ErrorDetail* detail, Status status, int64_t value, int64_t bound,
                 const char* format, const int64_t (&args)[N]) {
  if (detail) {
    *detail = ErrorDetail{};
    detail->status = status;
    detail->value = value;
    detail->bound = bound;
    message_format(detail->message, sizeof(detail->message), format, args, N);
  }
  return status;
}

}  // namespace leanedge
