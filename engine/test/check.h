// A small test runner: TEST defines a case and registers it, CHECK records a failure and goes on.
// Values are printed as integers or doubles; messages name the expression.
#pragma once

#include <stdint.h>
#include <stdio.h>

namespace leanedge::test {

struct Case {
  const char* name;
  void (*run)();
  Case* next;
};

// Cases in order of registration, and failures of the case that runs.
struct Registry {
  Case* first;
  Case* last;
  int failures;
};

inline Registry& registry() {
  static Registry instance = {};
  return instance;
}

struct Register {
  explicit Register(Case* entry) {
    Registry& r = registry();
    if (r.last) {
      r.last->next = entry;
    } else {
      r.first = entry;
    }
    r.last = entry;
  }
};

// At most this many failures of one case are printed.
inline constexpr int kFailuresShown = 10;

inline void fail(const char* file, int line, const char* text, double a, double b) {
  if (++registry().failures > kFailuresShown) return;
  printf("    %s:%d: %s (%.9g, %.9g)\n", file, line, text, a, b);
}

}  // namespace leanedge::test

#define TEST(name)                                                         \
  static void test_##name();                                               \
  static leanedge::test::Case case_##name = {#name, test_##name, nullptr}; \
  static const leanedge::test::Register register_##name(&case_##name);     \
  static void test_##name()

#define CHECK(condition)                                                          \
  do {                                                                            \
    if (!(condition)) leanedge::test::fail(__FILE__, __LINE__, #condition, 0, 0); \
  } while (0)

#define CHECK_EQ(a, b)                                                                     \
  do {                                                                                     \
    const auto value_a = (a);                                                              \
    const auto value_b = (b);                                                              \
    if (!(value_a == value_b)) {                                                           \
      leanedge::test::fail(__FILE__, __LINE__, #a " == " #b, static_cast<double>(value_a), \
                           static_cast<double>(value_b));                                  \
    }                                                                                      \
  } while (0)

#define CHECK_NEAR(a, b, bound)                                                                   \
  do {                                                                                            \
    const double value_a = static_cast<double>(a);                                                \
    const double value_b = static_cast<double>(b);                                                \
    const double gap = value_a < value_b ? value_b - value_a : value_a - value_b;                 \
    if (!(gap <= (bound))) {                                                                      \
      leanedge::test::fail(__FILE__, __LINE__, "|" #a " - " #b "| <= " #bound, value_a, value_b); \
    }                                                                                             \
  } while (0)
