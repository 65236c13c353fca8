/* Batch norm with the statistics of the batch, then GELU, and the way back: float32 rows of channels, on CPU.

x and grad are (num_rows, dim). PyTorch goes over memory in four passes and keeps what lies between the two; here it is
computed again. Every sum is taken over a fixed CHUNK of rows and then over the chunks in order, so that the number of
threads changes nothing. As in group_knn.c, OpenMP is not linked. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GLIBC__)
#define VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTORISED
#endif

#define CHUNK 256

/* e^(−z²/2), by 2^k · 2^f with k a whole number and f from −½ to ½. */
INLINE float bell(float z) {
    float power = -0.72134752f * z * z;
    power = power > -126 ? power : -126;
    union {
        float number;
        int32_t bits;
    } shifted = {power + 12582912.0f}, result; /* 1.5 · 2²³ leaves no room behind the point */
    float f = power - (shifted.number - 12582912.0f);
    result.number = 1.5353362e-4f;
    result.number = result.number * f + 1.3398874e-3f;
    result.number = result.number * f + 9.6184374e-3f;
    result.number = result.number * f + 5.5503325e-2f;
    result.number = result.number * f + 2.4022648e-1f;
    result.number = result.number * f + 6.9314720e-1f;
    result.number = result.number * f + 1;
    result.bits += (int32_t)((uint32_t)shifted.bits << 23);
    return result.number;
}

/* The normal distribution function of z, given bell(z): a polynomial of 1/(1 + p·|z|), fitted to 3e-7 of its value. */
INLINE float distribution(float z, float e) {
    float t = 1 / (1 + 0.31819805f * (z < 0 ? -z : z));
    float tail = 0.033159830f;
    tail = tail * t - 0.11894476f;
    tail = tail * t + 0.10227727f;
    tail = tail * t + 0.022205134f;
    tail = tail * t + 0.093189566f;
    tail = tail * t + 0.11439545f;
    tail = tail * t + 0.12675925f;
    tail = tail * t + 0.12695841f;
    tail = tail * t * e;
    return z < 0 ? tail : 1 - tail;
}

/* Mean, and sum of squared distances from it, of each channel. */
VECTORISED
static void moments(const float *restrict x, int64_t rows, int64_t dim, float *restrict mean, float *restrict squares) {
    for (int64_t j = 0; j < dim; j++) mean[j] = squares[j] = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < dim; j++) mean[j] += x[i * dim + j];
    for (int64_t j = 0; j < dim; j++) mean[j] /= (float)rows;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < dim; j++) {
            float distance = x[i * dim + j] - mean[j];
            squares[j] += distance * distance;
        }
}

/* GELU of x · scale + shift. */
VECTORISED
static void activate(const float *restrict x, const float *restrict scale, const float *restrict shift, int64_t rows,
                     int64_t dim, float *restrict y) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < dim; j++) {
            float z = x[i * dim + j] * scale[j] + shift[j];
            y[i * dim + j] = z * distribution(z, bell(z));
        }
}

/* Gradient of z = x · scale + shift, its sum and its sum times (x − mean). */
VECTORISED
static void gradient(const float *restrict x, const float *restrict grad, const float *restrict scale,
                     const float *restrict shift, const float *restrict mean, int64_t rows, int64_t dim,
                     float *restrict out, float *restrict sum, float *restrict product) {
    for (int64_t j = 0; j < dim; j++) sum[j] = product[j] = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < dim; j++) {
            float z = x[i * dim + j] * scale[j] + shift[j], e = bell(z);
            float dz = grad[i * dim + j] * (distribution(z, e) + 0.39894228f * z * e);
            out[i * dim + j] = dz;
            sum[j] += dz;
            product[j] += dz * (x[i * dim + j] - mean[j]);
        }
}

/* out = out · scale + (x − mean) · slope + offset. */
VECTORISED
static void combine(const float *restrict x, const float *restrict mean, const float *restrict scale,
                    const float *restrict slope, const float *restrict offset, int64_t rows, int64_t dim,
                    float *restrict out) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < dim; j++)
            out[i * dim + j] = out[i * dim + j] * scale[j] + (x[i * dim + j] - mean[j]) * slope[j] + offset[j];
}

INLINE int64_t rows_of(int64_t chunk, int64_t num_rows) {
    return num_rows - chunk * CHUNK < CHUNK ? num_rows - chunk * CHUNK : CHUNK;
}

/* z = x · scale + shift is the normalised x. */
static void scale_and_shift(const float *weight, const float *bias, const float *mean, const float *variance, float eps,
                            int64_t dim, float *scale, float *shift) {
    for (int64_t j = 0; j < dim; j++) {
        scale[j] = weight[j] / sqrtf(variance[j] + eps);
        shift[j] = bias[j] - mean[j] * scale[j];
    }
}

/* y, and the mean and biased variance of each channel. Returns 1 if there is no memory. */
int gkgnet_norm_gelu(const float *x, int64_t num_rows, int64_t dim, const float *weight, const float *bias, float eps,
                     float *mean, float *variance, float *y) {
    int64_t chunks = (num_rows + CHUNK - 1) / CHUNK;
    float *parts = malloc((chunks + 1) * 2 * dim * sizeof(float));
    if (!parts) return 1;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < chunks; k++)
        moments(x + k * CHUNK * dim, rows_of(k, num_rows), dim, parts + 2 * k * dim, parts + (2 * k + 1) * dim);
    for (int64_t j = 0; j < dim; j++) {
        double sum = 0, squares = 0;
        for (int64_t k = 0; k < chunks; k++) sum += (double)parts[2 * k * dim + j] * (double)rows_of(k, num_rows);
        sum /= (double)num_rows;
        for (int64_t k = 0; k < chunks; k++) {
            double distance = parts[2 * k * dim + j] - sum;
            squares += parts[(2 * k + 1) * dim + j] + distance * distance * (double)rows_of(k, num_rows);
        }
        mean[j] = (float)sum;
        variance[j] = (float)(squares / (double)num_rows);
    }
    float *scale = parts + 2 * chunks * dim, *shift = scale + dim;
    scale_and_shift(weight, bias, mean, variance, eps, dim, scale, shift);
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < chunks; k++)
        activate(x + k * CHUNK * dim, scale, shift, rows_of(k, num_rows), dim, y + k * CHUNK * dim);
    free(parts);
    return 0;
}

/* The gradients of x, weight and bias from that of y. Returns 1 if there is no memory. */
int gkgnet_norm_gelu_backward(const float *x, const float *grad, int64_t num_rows, int64_t dim, const float *weight,
                              const float *bias, float eps, const float *mean, const float *variance, float *out,
                              float *weight_grad, float *bias_grad) {
    int64_t chunks = (num_rows + CHUNK - 1) / CHUNK;
    float *parts = malloc((chunks + 2) * 2 * dim * sizeof(float));
    if (!parts) return 1;
    float *scale = parts + 2 * chunks * dim, *shift = scale + dim, *slope = shift + dim, *offset = slope + dim;
    scale_and_shift(weight, bias, mean, variance, eps, dim, scale, shift);
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < chunks; k++)
        gradient(x + k * CHUNK * dim, grad + k * CHUNK * dim, scale, shift, mean, rows_of(k, num_rows), dim,
                 out + k * CHUNK * dim, parts + 2 * k * dim, parts + (2 * k + 1) * dim);
    for (int64_t j = 0; j < dim; j++) {
        double sum = 0, product = 0, precision = 1 / ((double)variance[j] + eps);
        for (int64_t k = 0; k < chunks; k++) sum += parts[2 * k * dim + j], product += parts[(2 * k + 1) * dim + j];
        bias_grad[j] = (float)sum;
        weight_grad[j] = (float)(product * sqrt(precision));
        offset[j] = (float)(-scale[j] * sum / (double)num_rows);
        slope[j] = (float)(-scale[j] * precision * product / (double)num_rows);
    }
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < chunks; k++)
        combine(x + k * CHUNK * dim, mean, scale, slope, offset, rows_of(k, num_rows), dim, out + k * CHUNK * dim);
    free(parts);
    return 0;
}
