// The C interface of the kernels: no torch, so that they compile in seconds and can be called from anything.
// Pointers are device memory; tensors are dense, in the order their parameters name. All return cudaGetLastError().
#pragma once
#include "bias_act_core.h"
#include "filtered_lrelu_core.h"
#include "upfirdn2d_core.h"

#ifdef PROBES_EMULATE
#include "emulate.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define PROBES_LAUNCH(kernel, grid, block, bytes, stream, ...) kernel<<<grid, block, bytes, stream>>>(__VA_ARGS__)
#define PROBES_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

extern "C" {
// taps: float (double for kFloat64) [y.taps, x.taps], in correlation order, gain folded in.
cudaError_t probes_upfirdn2d(int dtype, const void* x, const void* taps, void* y, const probes::Upfirdn2dParams* params,
                             cudaStream_t stream);
// gradient = 0: y from x (dy unused). gradient = 1: y receives dx, x holds the reference.
cudaError_t probes_bias_act(int dtype, int gradient, const void* dy, const void* x, const void* bias, void* y,
                            const probes::BiasActParams* params, cudaStream_t stream);
// taps: float (double for kFloat64), four 1-D filters in correlation order, one after the other: rise along x, along y,
// fall along x, along y, gain folded in. mask: [planes, y.middle, ceil(x.middle / 4)]. The tile is chosen here.
cudaError_t probes_filtered_lrelu(int dtype, const void* x, const void* bias, const void* taps, void* y,
                                  unsigned char* mask, const probes::FilteredLreluParams* params, cudaStream_t stream);
}
