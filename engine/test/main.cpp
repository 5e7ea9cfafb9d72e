// Runs all cases, or those whose name contains the first argument.
#include <string.h>

#include "check.h"

int main(int argc, char** argv) {
  int passed = 0;
  int failed = 0;
  leanedge::test::Registry& registry = leanedge::test::registry();
  for (const leanedge::test::Case* test = registry.first; test; test = test->next) {
    if (argc > 1 && !strstr(test->name, argv[1])) continue;
    registry.failures = 0;
    test->run();
    if (registry.failures) {
      printf("FAIL %s (%d)\n", test->name, registry.failures);
      ++failed;
    } else {
      ++passed;
    }
  }
  printf("%d passed, %d failed\n", passed, failed);
  return failed || passed == 0 ? 1 : 0;
}
