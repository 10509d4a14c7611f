/* Direct sparse convolution: what stays of a pruned filter, applied to a dense map.
 *
 *   tfc_plan* plan = NULL;
 *   if (tfc_plan_create(&shape, &weights, bias, TFC_RELU, NULL, &plan) == TFC_OK) {
 *     tfc_plan_run(plan, input, output, batch, threads);
 *     tfc_plan_destroy(plan);
 *   }
 *
 * A C interface without any framework behind it. A plan is immutable: any number of threads may run it at
 * once. No call prints, exits or throws; what goes wrong is in the status.
 */
#ifndef TFCOMPRESS_SPARSE_CONV_H_
#define TFCOMPRESS_SPARSE_CONV_H_

#include <stdint.h>

#if defined(_WIN32)
#define TFC_EXPORT __declspec(dllexport)
#else
#define TFC_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tfc_status {
  TFC_OK = 0,
  TFC_BAD_ARGUMENT = 1, /* a null pointer, an unknown activation or kernel, no threads, a negative batch,
                           indices that are out of range or do not increase */
  TFC_BAD_SHAPE = 2,    /* a size below 1, a filter larger than the padded map, groups that do not divide */
  TFC_NOT_FINITE = 3,   /* a weight or a bias is infinite or not a number */
  TFC_TOO_LARGE = 4,    /* the shape is valid, but beyond what a plan can address */
  TFC_NOT_ON_THIS_CPU = 5,
  TFC_NO_MEMORY = 6
} tfc_status;

typedef enum tfc_activation { TFC_LINEAR = 0, TFC_RELU = 1, TFC_RELU6 = 2 } tfc_activation;

/* A convolution of maps (batch, height, width, channels) into (batch, out_height, out_width, filters).
 * Padding is explicit, and its values are zeros. */
typedef struct tfc_shape {
  int32_t height, width, channels;
  int32_t filters, kernel_height, kernel_width;
  int32_t stride_height, stride_width;
  int32_t dilation_height, dilation_width;
  int32_t pad_top, pad_bottom, pad_left, pad_right;
  int32_t groups;
} tfc_shape;

/* The weights of a bank of filters (kernel_height, kernel_width, channels / groups, filters) that are not
 * pruned: `values[i]` stands at the place `indices[i]`, counted as in memory. Indices increase. */
typedef struct tfc_weights {
  int64_t count;
  const int32_t* indices;
  const float* values;
} tfc_weights;

/* A map in tiles: how convolutions hand maps of one size to each other without putting pixels in order in
 * between. It is cut into regions of 16 lanes, `lane_rows` of them below each other, and each lane has
 * `rows` x `columns` neighbouring pixels. In memory it is (regions, channels, rows, columns, 16), on a border
 * of 64 bytes. Lanes off the map hold anything. */
typedef struct tfc_tiles {
  int32_t rows, columns, lane_rows;
} tfc_tiles;

/* Maps and weights in whole numbers of 8 bits, as TFLite has them: a weight `w` of filter f stands for
 * `weight_scale[f] * w`, and an entry `x` of a map for `scale * (x - zero)`. An output is
 *
 *   clamp(round(scales[f] * (bias[f] + sum of (x - input_zero) * w)) + output_zero, low, high)
 *
 * with sums in 32 bits, the product in float32, and halves rounded to even, as XNNPACK computes it. */
typedef struct tfc_requantization {
  int32_t input_zero, output_zero; /* -128 to 127, as are the bounds */
  int32_t low, high;
  const float* scales; /* (filters,), above 0: scale of the input * weight_scale[f] / scale of the output */
} tfc_requantization;

/* What is added to outputs in int8: of an output y and an entry r of the residual, a map of the same shape,
 * becomes
 *
 *   clamp(((bias + output_multiplier * y + residual_multiplier * r) >> shift) + zero, low, high)
 *
 * as XNNPACK computes an addition. */
typedef struct tfc_addition {
  int32_t bias;                                   /* below 2^30, and above -2^30 */
  int32_t output_multiplier, residual_multiplier; /* -2^22 to 2^22 */
  int32_t shift;                                  /* 1 to 31 */
  int32_t zero, low, high;                        /* -128 to 127 */
} tfc_addition;

/* As tfc_weights. */
typedef struct tfc_int8_weights {
  int64_t count;
  const int32_t* indices;
  const int8_t* values;
} tfc_int8_weights;

/* Everything about a plan that may be left at 0. */
typedef struct tfc_options {
  const char* kernel; /* a name from `tfc_kernel_name`, or NULL for what seems fastest for these weights */
  tfc_tiles tiles;    /* zeros for the best; others, and maps in tiles, are for lanes kernels */
  int32_t tiled_input, tiled_residual, tiled_output; /* whether these maps are in tiles: the plan's, above */
} tfc_options;

typedef struct tfc_plan tfc_plan;

/* A sentence for people; never NULL. */
TFC_EXPORT const char* tfc_status_message(tfc_status status);

/* The kernels compiled into this library, best first: "lanes_avx512", "blocks_avx512", ... The former compute
 * 16 parts of a map at a time, and leave out any weight that is zero; the latter compute 16 filters at a time, and
 * leave out blocks of 16 weights, those of neighbouring filters at one tap of one channel. NULL from
 * `tfc_kernel_name` ends the list. One that is not supported needs instructions that this processor lacks. */
TFC_EXPORT const char* tfc_kernel_name(int32_t index);
TFC_EXPORT int32_t tfc_kernel_supported(int32_t index);

/* Of the output; TFC_BAD_SHAPE where the shape is none. */
TFC_EXPORT tfc_status tfc_output_size(const tfc_shape* shape, int32_t* out_height, int32_t* out_width);

/* Sets the padding of a shape to what "SAME" is in TensorFlow; TFC_BAD_SHAPE where that is no number of pixels. */
TFC_EXPORT tfc_status tfc_pad_same(tfc_shape* shape);

/* weights: those that stay, copied.
 * bias:    (filters,) or NULL.
 * kernel:  a name from `tfc_kernel_name`, or NULL for what seems fastest for these weights. */
TFC_EXPORT tfc_status tfc_plan_create(const tfc_shape* shape, const tfc_weights* weights, const float* bias,
                                      tfc_activation activation, const char* kernel, tfc_plan** plan);

/* A plan of the same convolution, where only values and bias are others; much cheaper than a new one.
 * values: as many as the weights of `plan`, in their order. */
TFC_EXPORT tfc_status tfc_plan_with_values(const tfc_plan* plan, const float* values, const float* bias,
                                           tfc_plan** other);
TFC_EXPORT tfc_status tfc_plan_run(const tfc_plan* plan, const float* input, float* output, int32_t batch,
                                   int32_t threads);

/* Around runs that follow each other closely: between them threads keep their processors, for some time at least,
 * and behind the last they leave these to others at once. */
TFC_EXPORT void tfc_series_begin(void);
TFC_EXPORT void tfc_series_end(void);

/* With options, and with a residual, of the shape of the output, that is added before the activation. A tiled
 * input must have the size of the output. TFC_BAD_ARGUMENT for tiles that the kernel has not. */
TFC_EXPORT tfc_status tfc_plan_create_with(const tfc_shape* shape, const tfc_weights* weights, const float* bias,
                                           tfc_activation activation, const tfc_options* options, tfc_plan** plan);
TFC_EXPORT tfc_status tfc_plan_run_with(const tfc_plan* plan, const float* input, const float* residual,
                                        float* output, int32_t batch, int32_t threads);

/* The tiles of a plan, and how many floats a map in such tiles has. */
TFC_EXPORT tfc_tiles tfc_plan_tiles(const tfc_plan* plan);
TFC_EXPORT int64_t tfc_tiled_floats(const tfc_tiles* tiles, int32_t height, int32_t width, int32_t channels);

/* How fast this processor is, for predictions. Numbers only: it may be kept for another process. */
typedef struct tfc_machine {
  double dense;     /* multiply-adds of a dense convolution in a second, on one thread */
  double steps[23]; /* seconds that each kind of step of a plan takes */
} tfc_machine;

/* What a prediction needs to know of the weights that are not pruned. */
typedef struct tfc_weight_counts {
  int64_t weights;  /* how many they are */
  int64_t halves;   /* in int8, where they are words: how many halves of words, and how many quarters; in */
  int64_t quarters; /* float32 nothing */
  int64_t blocks;   /* how many blocks of 16 filters have any at a tap of a channel, over all of these */
  int32_t channels; /* how many channels they read */
} tfc_weight_counts;

typedef struct tfc_prediction {
  double dense_seconds, sparse_seconds; /* for one image, with threads that look for something to do */
  double alone_seconds;                 /* sparse, with one thread */
  double wake_seconds; /* what it takes besides if the others sleep, before the first of a series */
  const char* kernel;  /* the fastest */
  tfc_tiles tiles;     /* zeros where it has none */
} tfc_prediction;

TFC_EXPORT tfc_status tfc_count_weights(const tfc_shape* shape, const tfc_weights* weights,
                                        tfc_weight_counts* counts);

/* Measures, which takes some tenths of a second and, for that time, 64 MiB. kernel: the one that predictions are
 * wanted for, or NULL. */
TFC_EXPORT tfc_status tfc_measure_machine(const char* kernel, tfc_machine* machine);

/* What a plan of such weights and a dense convolution would take. */
TFC_EXPORT tfc_status tfc_predict(const tfc_shape* shape, const tfc_weight_counts* counts,
                                  const tfc_options* options, const tfc_machine* machine, int32_t threads,
                                  tfc_prediction* prediction);

TFC_EXPORT void tfc_plan_destroy(tfc_plan* plan);
TFC_EXPORT const char* tfc_plan_kernel(const tfc_plan* plan);

/* The plain loop nest over all the weights, dense, which every kernel is tested against. */
TFC_EXPORT tfc_status tfc_reference(const tfc_shape* shape, const float* weights, const float* bias,
                                    tfc_activation activation, const float* input, float* output, int32_t batch);

/* In int8. Kernels have names of their own: "int8_lanes_..." leave out words, blocks of 4 neighbouring channels of
 * one filter at one tap; "int8_pairs_..." and "int8_quads_..." halves and quarters of words, which they put
 * together to whole ones as they go; "int8_blocks_..." those of 16 neighbouring filters; "int8_lanes_avx512amx"
 * words that none of 16 filters has, and more only where that is faster. Padding is `input_zero`, which stands for
 * 0. TFC_BAD_ARGUMENT for scales that are not above 0, numbers out of range, and for a plan of the other type.
 * Maps begin on a border of 4 bytes. Where weights and channels are counted, words are.
 *
 * bias:     (filters,) or NULL.
 * addition: or NULL; then runs have no residual, and else they have one. */
TFC_EXPORT const char* tfc_int8_kernel_name(int32_t index);
TFC_EXPORT int32_t tfc_int8_kernel_supported(int32_t index);
TFC_EXPORT tfc_status tfc_int8_plan_create(const tfc_shape* shape, const tfc_int8_weights* weights,
                                           const int32_t* bias, const tfc_requantization* requantization,
                                           const tfc_addition* addition, const char* kernel, tfc_plan** plan);
TFC_EXPORT tfc_status tfc_int8_plan_run(const tfc_plan* plan, const int8_t* input, const int8_t* residual,
                                        int8_t* output, int32_t batch, int32_t threads);
TFC_EXPORT tfc_status tfc_int8_count_weights(const tfc_shape* shape, const tfc_int8_weights* weights,
                                             tfc_weight_counts* counts);
TFC_EXPORT tfc_status tfc_int8_measure_machine(const char* kernel, tfc_machine* machine);
TFC_EXPORT tfc_status tfc_int8_predict(const tfc_shape* shape, const tfc_weight_counts* counts, const char* kernel,
                                       const tfc_machine* machine, int32_t threads, tfc_prediction* prediction);
TFC_EXPORT tfc_status tfc_int8_reference(const tfc_shape* shape, const int8_t* weights, const int32_t* bias,
                                         const tfc_requantization* requantization, const int8_t* input,
                                         int8_t* output, int32_t batch);

#ifdef __cplusplus
}
#endif

#endif /* TFCOMPRESS_SPARSE_CONV_H_ */
