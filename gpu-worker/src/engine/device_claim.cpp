#include "device_claim.h"

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace leanedge::cuda {

// The claim is a socket's name that no file system knows: only one socket can have it, and the kernel frees it with the
// process.
int32_t device_claim(const char* name) {
  constexpr char kPrefix[] = "leanedge-cuda-";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  // A name that begins with a zero is abstract.
  constexpr size_t begin = 1 + sizeof kPrefix - 1;
  const size_t length = strlen(name);
  if (begin + length > sizeof address.sun_path) return kNoClaim;
  memcpy(address.sun_path + 1, kPrefix, sizeof kPrefix - 1);
  memcpy(address.sun_path + begin, name, length);
  const int claim = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (claim < 0) return kNoClaim;
  const size_t bytes = offsetof(sockaddr_un, sun_path) + begin + length;
  if (bind(claim, reinterpret_cast<const sockaddr*>(&address), static_cast<socklen_t>(bytes)) == 0) {
    return claim;
  }
  close(claim);
  return kNoClaim;
}

void device_claim_end(int32_t claim) {
  if (claim >= 0) close(claim);
}

}  // namespace leanedge::cuda
