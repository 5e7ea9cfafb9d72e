// One engine of a device has the claim, in this process or another; who ends it makes room for the next.
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../src/engine/device_claim.cpp"

using namespace leanedge::cuda;

namespace {

int failures = 0;

void check(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  printf("FAIL device claim: %s\n", what);
}

// What another process gets.
bool other_process_claims(const char* name) {
  const pid_t child = fork();
  if (child == 0) _exit(device_claim(name) == kNoClaim ? 1 : 0);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

int main() {
  char name[64];  // of no device, and no other test's
  snprintf(name, sizeof name, "test-%d", static_cast<int>(getpid()));
  char longer[80];
  snprintf(longer, sizeof longer, "%s0", name);
  const int32_t first = device_claim(name);
  check(first != kNoClaim, "nobody has it");
  check(device_claim(name) == kNoClaim, "twice in a process");
  check(!other_process_claims(name), "in two processes");
  const int32_t second = device_claim(longer);
  check(second != kNoClaim, "of two devices");
  device_claim_end(first);
  check(other_process_claims(name), "in another process when it has ended");
  const int32_t again = device_claim(name);
  check(again != kNoClaim, "when it has ended with its process");
  device_claim_end(again);
  device_claim_end(second);
  device_claim_end(kNoClaim);
  char much[256];
  memset(much, 'x', sizeof much);
  much[sizeof much - 1] = 0;
  check(device_claim(much) == kNoClaim, "of a name that is too long");
  if (failures == 0) printf("ok   gpu-worker/test/device_claim_test.cpp\n");
  return failures != 0;
}
