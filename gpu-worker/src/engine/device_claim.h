// Which engine of a device may launch kernels whose blocks wait for each other: such a kernel needs all multiprocessors
// at the same time, and two of them, each with some, would wait for ever. One engine has the claim, in whatever process it
// is; the others do without these kernels. Processes that share a device through MPS across network namespaces do not see
// each other's claims.
#pragma once

#include <stdint.h>

namespace leanedge::cuda {

inline constexpr int32_t kNoClaim = -1;

// Claims the device of that name, a PCI bus address; kNoClaim where another engine has it. It ends with the process.
int32_t device_claim(const char* name);
void device_claim_end(int32_t claim);

}  // namespace leanedge::cuda
