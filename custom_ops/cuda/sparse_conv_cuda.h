/* Direct sparse convolution on NVIDIA GPUs, in the manner of ../core/sparse_conv.h.
 *
 *   tfc_cuda_plan* plan = NULL;
 *   if (tfc_cuda_plan_create(&shape, &weights, bias, TFC_RELU, NULL, batch, &plan) == TFC_OK) {
 *     tfc_cuda_plan_run(plan, input, output, batch, stream);
 *     tfc_cuda_plan_destroy(plan);
 *   }
 *
 * Shapes, weights, activations and status codes are those of the core, maps are float32 and NHWC. A plan
 * belongs to the device that was current when it was made, and is immutable: any number of threads may run it
 * at once, on any streams of that device. No call prints, exits or throws.
 *
 * Input that is infinite or not a number spreads as in a dense convolution, to filters that a kernel bundles
 * with one that reads it.
 *
 * Compiled for sm_80 and sm_90. What a block of threads computes is tested thread by thread on the host
 * (../tests/test_cuda.py); on a GPU it has not run yet.
 */
#ifndef TFCOMPRESS_SPARSE_CONV_CUDA_H_
#define TFCOMPRESS_SPARSE_CONV_CUDA_H_

#include "../core/sparse_conv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A code beside those of tfc_status: the driver refused a call, or an earlier kernel failed. Where there is no
 * GPU, or none that the library was compiled for, the code is TFC_NOT_ON_THIS_CPU. */
#define TFC_CUDA_FAILED ((tfc_status)100)

typedef struct tfc_cuda_plan tfc_cuda_plan;

/* Of these codes; never NULL. */
TFC_EXPORT const char* tfc_cuda_status_message(tfc_status status);

/* "bundle4_pixels8", ...; NULL ends the list. */
TFC_EXPORT const char* tfc_cuda_kernel_name(int32_t index);

/* weights, bias: in host memory, copied to the device.
 * kernel:        a name from `tfc_cuda_kernel_name`, or NULL for the one that seems fastest.
 * batch:         the batch to expect, at least 1; the plan runs with any other too, perhaps slower. */
TFC_EXPORT tfc_status tfc_cuda_plan_create(const tfc_shape* shape, const tfc_weights* weights, const float* bias,
                                           tfc_activation activation, const char* kernel, int32_t batch,
                                           tfc_cuda_plan** plan);

/* Puts the work on a stream (a cudaStream_t; NULL is the default one) and returns.
 * input:  (batch, height, width, channels), in device memory.
 * output: (batch, out_height, out_width, filters), likewise. */
TFC_EXPORT tfc_status tfc_cuda_plan_run(const tfc_cuda_plan* plan, const float* input, float* output,
                                        int32_t batch, void* stream);

/* The same with other values and bias, which are on the device: for weights in training.
 * values:    as many as the weights of the plan, in their order. Nobody looks whether they are finite.
 * bias:      (filters,) or NULL for none.
 * workspace: `tfc_cuda_plan_workspace_bytes` of device memory, aligned to 16 bytes, of this run alone. */
TFC_EXPORT tfc_status tfc_cuda_plan_run_with_values(const tfc_cuda_plan* plan, const float* values,
                                                    const float* bias, void* workspace, const float* input,
                                                    float* output, int32_t batch, void* stream);
TFC_EXPORT int64_t tfc_cuda_plan_workspace_bytes(const tfc_cuda_plan* plan);

/* Waits until the device has nothing left to do. */
TFC_EXPORT void tfc_cuda_plan_destroy(tfc_cuda_plan* plan);
TFC_EXPORT const char* tfc_cuda_plan_kernel(const tfc_cuda_plan* plan);

#ifdef __cplusplus
}
#endif

#endif /* TFCOMPRESS_SPARSE_CONV_CUDA_H_ */
