#include "decode_graphs.h"

#include "draw_tables.h"
#include "pass_tables.h"

namespace leanedge::cuda {

bool graphs_open(DecodeGraphs* graphs, const Engine& engine, DeviceMemory* memory) {
  *graphs = DecodeGraphs{};
  graphs->table_bytes = tables_bytes_max(engine, device.scratch.pages_max);
  graphs->draw_bytes = draw_tables_bytes_max();
  graphs->pass_tables = device_alloc_unwritten(memory, graphs->table_bytes);
  graphs->draw_tables = device_alloc_unwritten(memory, graphs->draw_bytes);
  return graphs->pass_tables && graphs->draw_tables;
}

void graphs_close(DecodeGraphs* graphs) {
  for (int32_t i = 0; i < kBucketCount; ++i) {
    for (auto& plan : graphs->layers) {
      for (auto& form : plan) {
        if (form[i].replay) cudaGraphExecDestroy(form[i].replay);
      }
    }
    if (graphs->draws[i].replay) cudaGraphExecDestroy(graphs->draws[i].replay);
  }
  *graphs = DecodeGraphs{};
}

cudaError_t captured_run(CapturedPass* pass, void (*launch)(void*), void* context,
                         cudaStream_t stream) {
  if (pass->replay) return cudaGraphLaunch(pass->replay, stream);
  if (pass->runs++ == 0) {
    launch(context);
    return cudaSuccess;
  }
  cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) return error;
  launch(context);
  cudaGraph_t graph = nullptr;
  error = cudaStreamEndCapture(stream, &graph);
  if (error != cudaSuccess) return error;
  error = cudaGraphInstantiate(&pass->replay, graph, 0);
  cudaGraphDestroy(graph);
  return error == cudaSuccess ? cudaGraphLaunch(pass->replay, stream) : error;
}

}  // namespace leanedge::cuda
