/* Loops of group_knn.py that PyTorch has no operator for: float32, on CPU.

Every output element is computed by one thread in a fixed order, so that the number of threads changes nothing. OpenMP is
not linked: the threads are those of the OpenMP that PyTorch has loaded. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__x86_64__) && defined(__GLIBC__) /* which chooses between the two when the library is loaded */
#define VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define VECTORISED
#endif

/* Counts up with every change of a function's arguments; group_knn_cpu.py knows the same number. */
int gkgnet_interface(void) { return 2; }

/* Scores that are compared at once. */
#define BLOCK 64

/* Bit j: scores[j] >= bound. */
INLINE uint64_t hits_in_block(const float *scores, float bound) {
    uint64_t hits = 0;
#if defined(__x86_64__)
    for (int j = 0; j < BLOCK; j += 4)
        hits |= (uint64_t)_mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(scores + j), _mm_set1_ps(bound))) << j;
#else
    for (int j = 0; j < BLOCK; j++) hits |= (uint64_t)(scores[j] >= bound) << j;
#endif
    return hits;
}

/* The highest value that at least `ranks` of the lanes reach. */
INLINE float reached_by(const float *lanes, int ranks, const int num_lanes) {
    int32_t higher[BLOCK] = {0};
    for (int k = 0; k < num_lanes; k++)
        for (int j = 0; j < num_lanes; j++) higher[j] += lanes[k] > lanes[j];
    float bound = INFINITY;
    for (int j = 0; j < num_lanes; j++) {
        float candidate = higher[j] < ranks ? lanes[j] : INFINITY;
        bound = candidate < bound ? candidate : bound;
    }
    return bound;
}

/* A value that at least `ranks` scores reach, and few more: lane j holds the maximum of the scores j, j + BLOCK, … */
INLINE float lower_bound(const float *scores, int64_t num_scores, int ranks) {
    float lanes[BLOCK];
    if (ranks > BLOCK) return -INFINITY;
    for (int j = 0; j < BLOCK; j++) lanes[j] = scores[j];
    for (int64_t m = BLOCK; m < num_scores; m += BLOCK)
        for (int j = 0; j < BLOCK; j++) lanes[j] = scores[m + j] > lanes[j] ? scores[m + j] : lanes[j];
    if (ranks > 12) return reached_by(lanes, ranks, BLOCK);
    for (int fold = BLOCK / 2; fold >= 16; fold /= 2)
        for (int j = 0; j < fold; j++) lanes[j] = lanes[fold + j] > lanes[j] ? lanes[fold + j] : lanes[j];
    return reached_by(lanes, ranks, 16);
}

/* Scores of one destination: 2 · similarity − bias. NaN is highest; what fills up the last lanes is lowest. */
INLINE void score_row(const float *restrict similarity, const float *restrict row_bias,
                      const float *restrict column_bias, int64_t num_sources, int64_t padded, float *restrict scores) {
    for (int64_t m = 0; m < num_sources; m++) {
        float score = row_bias ? 2 * similarity[m] - (row_bias[m] + column_bias[m]) : similarity[m];
        scores[m] = score == score ? score : INFINITY;
    }
    for (int64_t m = num_sources; m < padded; m++) scores[m] = -INFINITY;
}

/* Candidates that are ranked by comparing each with each, which has no branches; more are rare. */
#define FEW 128

/* Write the sources of the `ranks` highest of n <= FEW scores, highest first, of equal ones the first first. */
INLINE void rank_few(const float *restrict scores, const int32_t *restrict candidates, int n, int ranks,
                     int32_t *restrict sources) {
    float values[FEW + 8];
    int padded = (n + 7) / 8 * 8;
    for (int i = 0; i < padded; i++) values[i] = i < n ? scores[candidates[i]] : -INFINITY;
    for (int i = 0; i < n; i++) {
        int32_t place = 0;
        for (int j = 0; j < padded; j++) place += values[j] > values[i] || (values[j] == values[i] && j < i);
        if (place < ranks) sources[place] = candidates[i];
    }
}

/* The same of any number, such as for more than BLOCK ranks, which no released network has; `best` is memory of
   `ranks` scores. */
INLINE void rank_many(const float *scores, const int32_t *candidates, int64_t n, int ranks, float *best,
                      int32_t *sources) {
    int kept = 0;
    for (int64_t i = 0; i < n; i++) {
        float score = scores[candidates[i]];
        if (kept == ranks && score <= best[kept - 1]) continue;
        int place = kept < ranks ? kept++ : kept - 1;
        for (; place > 0 && best[place - 1] < score; place--)
            best[place] = best[place - 1], sources[place] = sources[place - 1];
        best[place] = score, sources[place] = candidates[i];
    }
}

/* The sources of the highest scores of one destination; `scores` and `candidates` have room for `padded` of them. */
VECTORISED
static void select_row(const float *similarity, const float *row_bias, const float *column_bias, int64_t num_sources,
                       int64_t padded, int ranks, float *scores, float *best, int32_t *sources, int32_t *candidates) {
    score_row(similarity, row_bias, column_bias, num_sources, padded, scores);
    float bound = lower_bound(scores, padded, ranks);
    int64_t n = 0;
    for (int64_t m = 0; m < padded; m += BLOCK)
        for (uint64_t hits = hits_in_block(scores + m, bound); hits; hits &= hits - 1)
            candidates[n++] = (int32_t)(m + __builtin_ctzll(hits));
    while (n > 0 && candidates[n - 1] >= num_sources) n--; /* what fills up the last block */
    if (n <= FEW)
        rank_few(scores, candidates, (int)n, ranks, sources);
    else
        rank_many(scores, candidates, n, ranks, best, sources);
}

/* Ranks 0, d, 2d, … of the `ranks` highest scores of each row.

   similarity (items, num_rows, num_sources), rows (H, num_sources) and columns (width, num_sources) or both NULL, out
   (items, num_rows, ⌈ranks/d⌉); the first row is destination `first`. Returns 1 if there is no memory. */
int gkgnet_select(const float *similarity, int64_t items, int64_t num_rows, int64_t num_sources, const float *rows,
                  const float *columns, int64_t width, int64_t first, int64_t ranks, int64_t dilation, int64_t *out) {
    int64_t kept = (ranks + dilation - 1) / dilation, padded = (num_sources + BLOCK - 1) / BLOCK * BLOCK;
    int failed = 0;
#pragma omp parallel
    {
        float *scores = malloc((padded + ranks) * (sizeof(float) + sizeof(int32_t)));
        float *best = scores + padded;
        int32_t *sources = (int32_t *)(best + ranks), *candidates = sources + ranks;
        if (!scores) failed = 1;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < items * num_rows; r++) {
            if (!scores) continue;
            int64_t n = first + r % num_rows;
            select_row(similarity + r * num_sources, rows ? rows + n / width * num_sources : NULL,
                       rows ? columns + n % width * num_sources : NULL, num_sources, padded, (int)ranks, scores, best,
                       sources, candidates);
            for (int64_t k = 0; k < kept; k++) out[r * kept + k] = sources[k * dilation];
        }
        free(scores);
    }
    return failed;
}

/* One destination's maximum over its neighbours' rows; NaN is largest, of equal ones the first wins. */
VECTORISED
static void max_rows(const float *sources, int64_t stride, const int64_t *neighbors, int64_t num_neighbors, int64_t dim,
                     float *restrict values, uint8_t *restrict winners) {
    const float *row = sources + neighbors[0] * stride;
    for (int64_t j = 0; j < dim; j++) values[j] = row[j];
    if (winners)
        for (int64_t j = 0; j < dim; j++) winners[j] = 0;
    for (int64_t k = 1; k < num_neighbors; k++) {
        row = sources + neighbors[k] * stride;
        if (winners)
            for (int64_t j = 0; j < dim; j++) winners[j] = row[j] <= values[j] || values[j] != values[j] ? winners[j] : (uint8_t)k;
        for (int64_t j = 0; j < dim; j++) values[j] = row[j] <= values[j] || values[j] != values[j] ? values[j] : row[j];
    }
}

/* Whether one of n neighbours is none of the sources. */
static int any_outside(const int64_t *neighbors, int64_t n, int64_t num_sources) {
    int outside = 0;
    for (int64_t i = 0; i < n; i++) outside |= neighbors[i] < 0 || neighbors[i] >= num_sources;
    return outside;
}

/* sources (B, G, M, c) with strides of B, G and M, neighbors (B, G, N, K) → values and, unless NULL, winners, (B, N, G, c).

   Returns 1, with nothing written, if a neighbour is none of the M sources. */
int gkgnet_gather_max(const float *sources, const int64_t *strides, const int64_t *neighbors, int64_t batch,
                      int64_t groups, int64_t num_destinations, int64_t num_neighbors, int64_t num_sources, int64_t dim,
                      float *values, uint8_t *winners) {
    if (any_outside(neighbors, batch * groups * num_destinations * num_neighbors, num_sources)) return 1;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < batch * num_destinations; r++)
        for (int64_t g = 0; g < groups; g++) {
            int64_t b = r / num_destinations, n = r % num_destinations, out = (r * groups + g) * dim;
            max_rows(sources + b * strides[0] + g * strides[1], strides[2],
                     neighbors + ((b * groups + g) * num_destinations + n) * num_neighbors, num_neighbors, dim,
                     values + out, winners ? winners + out : NULL);
        }
    return 0;
}

/* The backward of gather_max: grad (B, N, G, c) is added to the winners' rows of out (B, M, G, c), which starts at 0.

   Returns, with nothing written, 1 if a neighbour is none of the M sources, 2 if a winner is none of the K neighbours. */
int gkgnet_scatter_max(const float *grad, const int64_t *neighbors, const uint8_t *winners, int64_t batch,
                       int64_t groups, int64_t num_destinations, int64_t num_neighbors, int64_t num_sources,
                       int64_t dim, float *out) {
    if (any_outside(neighbors, batch * groups * num_destinations * num_neighbors, num_sources)) return 1;
    uint8_t highest = 0;
    for (int64_t i = 0; i < batch * groups * num_destinations * dim; i++)
        highest = winners[i] > highest ? winners[i] : highest;
    if (highest >= num_neighbors) return 2;
    int64_t parts = (dim + 15) / 16;
#pragma omp parallel for schedule(dynamic)
    for (int64_t task = 0; task < batch * groups * parts; task++) {
        int64_t b = task / parts / groups, g = task / parts % groups, start = task % parts * 16;
        int64_t end = start + 16 < dim ? start + 16 : dim;
        for (int64_t n = 0; n < num_destinations; n++) {
            int64_t row = ((b * num_destinations + n) * groups + g) * dim;
            const int64_t *index = neighbors + ((b * groups + g) * num_destinations + n) * num_neighbors;
            for (int64_t j = start; j < end; j++)
                out[((b * num_sources + index[winners[row + j]]) * groups + g) * dim + j] += grad[row + j];
        }
    }
    return 0;
}
