// The least of CUDA that the kernels use, on CPU threads: where there is no GPU, the kernels' own source runs under it
// (tests/test_ops.py). One block at a time, one OS thread per CUDA thread, __syncthreads a real barrier, and no more
// than kMaxGrid blocks, so that small tensors already make every block stride over the grid.
#pragma once
#include <barrier>
#include <cstddef>
#include <thread>
#include <vector>

#define __global__
#define __launch_bounds__(threads)

using cudaStream_t = void*;
enum cudaError_t : int { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace emulate {
constexpr int kMaxGrid = 2;
struct Index { int x; };
inline thread_local Index thread_index;
inline Index block_index, block_size, grid_size;
inline std::vector<std::max_align_t> shared_memory;
inline std::barrier<>* block_barrier = nullptr;

template <typename Kernel> void launch(int grid, int block, std::size_t bytes, const Kernel& kernel) {
  grid = grid < kMaxGrid ? grid : kMaxGrid;
  std::barrier<> barrier(block);
  block_barrier = &barrier;
  shared_memory.assign(bytes / sizeof(std::max_align_t) + 1, std::max_align_t{});
  block_size = {block};
  grid_size = {grid};
  std::vector<std::thread> threads;
  for (int t = 0; t < block; ++t) {
    threads.emplace_back([&, t] {
      thread_index = {t};
      for (int b = 0; b < grid; ++b) {
        if (t == 0) block_index = {b};
        barrier.arrive_and_wait();
        kernel();
        barrier.arrive_and_wait();
      }
    });
  }
  for (auto& thread : threads) thread.join();
}
}  // namespace emulate

#define threadIdx emulate::thread_index
#define blockIdx emulate::block_index
#define blockDim emulate::block_size
#define gridDim emulate::grid_size
#define __syncthreads() emulate::block_barrier->arrive_and_wait()
#define PROBES_SHARED(name) unsigned char* name = reinterpret_cast<unsigned char*>(emulate::shared_memory.data())
#define PROBES_LAUNCH(kernel, grid, block, bytes, stream, ...) \
  ((void)(stream), emulate::launch(grid, block, bytes, [&] { kernel(__VA_ARGS__); }))
