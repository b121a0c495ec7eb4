// What lets one source compile as CUDA (nvcc), as plain C++ (the CPU op) and under the emulator (emulate.h).
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define PROBES_HD __host__ __device__ __forceinline__
#else
#define PROBES_HD inline
#endif

namespace probes {

// Codes shared with the bindings; the order is part of the C interface in launch.h.
enum DType : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

// Arithmetic is in float, and in double for double: 16-bit types are only ever loaded and stored.
template <typename T> struct Accumulator { using type = float; };
template <> struct Accumulator<double> { using type = double; };

}  // namespace probes
