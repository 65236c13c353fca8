/* Loops of group_knn.py that PyTorch has no operator for, on CPU.

Every output element is computed by one thread in a fixed order, so that the number of threads changes nothing. OpenMP is
not linked: the threads are those of the OpenMP that PyTorch has loaded. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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
int gkgnet_interface(void) { return 4; }

/* Candidates a destination can have; with more, or with more ranks, every source is compared exactly. */
#define CANDIDATES 256
#define MOST_RANKS 64
/* So many are ranked by comparing each with each; of more, the last rank is sought first. */
#define MOST_RANKED 96
/* So few sources are all compared exactly. */
#define FEW_SOURCES 48
/* Destinations that a thread takes at once, at most. */
#define LARGEST_BLOCK 128
/* Bytes of packed sources that are compared with a block of destinations before the next are: they stay in cache. */
#define CHUNK (256 << 10)
/* Bytes of packed sources that are held at once, or those of one item if these are more. */
#define PACKED (32 << 20)

typedef float four __attribute__((vector_size(16)));

/* What is searched. The last fields follow from the others. */
struct search {
    const void *destinations, *sources;
    const int64_t *destination_strides, *source_strides; /* of B, G and nodes; the channels lie side by side */
    int64_t half;                                        /* 1 for bfloat16, 0 for float32 */
    int64_t batch, groups, num_destinations, num_sources, dim;
    const float *rows, *columns; /* the position bias, (H, num_sources) and (width, num_sources), or NULL */
    int64_t width, ranks, dilation;
    int64_t padded_dim, steps, num_panels, panel; /* numbers of a row, its units; panels, sources of one */
    int64_t block, back, ring;             /* destinations of a block; to look back; whose neighbours are kept */
    int64_t most;                          /* candidates that are collected before their number is reduced */
    int direct;                            /* compare every source exactly */
    float error;                           /* between an approximate and the exact score, but for the last rounding */
};

/* The sources of one image and group, packed. */
struct item {
    float *rows, *panels, *factors;
    int64_t destination_offset, source_offset;
    int64_t *neighbors;
};

/* A destination while its candidates are collected. */
struct destination {
    const float *row_bias, *column_bias;
    float *row;
    float factor, bound;
    int32_t count, most, overflows;
    int32_t keys[CANDIDATES], sources[CANDIDATES];
};

/* The memory of a thread. */
struct worker {
    struct destination *destinations;
    float *rows, *queries, *units;
    int32_t *nearest, *keys, *sources, *places, *ranked;
    int64_t start, item, next; /* from `start` on this thread has searched all destinations of `item` before `next` */
};

struct kernel {
    int panel, rows, half;
    void (*pack)(const struct search *, const struct item *, int64_t, float *);
    void (*search_block)(const struct search *, const struct item *, int64_t, int64_t, struct worker *);
};

#define INFINITE 0x7f800000 /* the bits of INFINITY */

/* Integers in the order of scores; NaN is highest. */
INLINE int32_t key_of(float score) {
    int32_t bits;
    score = score == score ? score + 0.0f : INFINITY; /* no −0 */
    memcpy(&bits, &score, sizeof bits);
    return bits ^ ((bits >> 31) & INT32_MAX);
}

INLINE float score_of(int32_t key) {
    float score;
    key ^= (key >> 31) & INT32_MAX;
    memcpy(&score, &key, sizeof score);
    return score;
}

/* The score less what it can be wrong by: `error` and 8 roundings of itself. */
INLINE float lowered(float score, float error) {
    return fabsf(score) < INFINITY ? score - (error + 0x1p-21f * fabsf(score)) : score;
}

/* `dim` features from `offset` on as float32. */
INLINE void read_row(const void *features, int64_t offset, int64_t half, int64_t dim, float *row) {
    if (!half) {
        memcpy(row, (const float *)features + offset, dim * sizeof(float));
        return;
    }
    const uint16_t *numbers = (const uint16_t *)features + offset;
    uint32_t *bits = (uint32_t *)row;
    for (int64_t j = 0; j < dim; j++) bits[j] = (uint32_t)numbers[j] << 16;
}

#define NAME(x) baseline_##x
#define TARGET
#define LANES 4
#if defined(__aarch64__)
#define ROWS 8
#else
#define ROWS 4
#endif
#define HALF 0
#include "group_knn_search.h"

#if defined(__x86_64__)
#define NAME(x) avx2_##x
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define ROWS 4
#define HALF 0
#include "group_knn_search.h"

#define NAME(x) avx512_##x
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#define LANES 16
#define ROWS 8
#define HALF 0
#include "group_knn_search.h"

#define NAME(x) bf16_##x
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define LANES 16
#define ROWS 8
#define HALF 1
#include "group_knn_search.h"
#endif

/* The number of the best instruction set of this processor: 0 what the compiler takes for granted, 1 AVX2 and FMA,
   2 AVX-512, 3 AVX-512 with products of bfloat16. */
int gkgnet_instructions(void) {
#if defined(__x86_64__)
    int fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int wide = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide && __builtin_cpu_supports("avx512bf16") ? 3 : wide ? 2 : fma;
#else
    return 0;
#endif
}

static const struct kernel *kernel_of(int64_t instructions) {
    (void)instructions;
#if defined(__x86_64__)
    if (instructions == 3) return &bf16_kernel;
    if (instructions == 2) return &avx512_kernel;
    if (instructions == 1) return &avx2_kernel;
#endif
    return &baseline_kernel;
}

/* Where `size` numbers of 4 bytes lie in `memory`, from the cache line at `used` on, which is moved on; without memory
   NULL, to count. */
static void *take(char *memory, int64_t *used, int64_t size) {
    void *taken = memory ? memory + *used : NULL;
    *used += (size * 4 + 63) / 64 * 64;
    return taken;
}

/* Lay out the parts of an item in memory → the bytes they need. */
static int64_t lay_out_item(const struct search *s, char *memory, struct item *item) {
    int64_t used = 0;
    item->rows = take(memory, &used, s->num_sources * s->padded_dim);
    item->panels = take(memory, &used, s->num_panels * s->panel * s->steps);
    item->factors = take(memory, &used, s->num_panels * s->panel);
    return used;
}

/* The same of a thread's memory. */
static int64_t lay_out_worker(const struct search *s, char *memory, struct worker *w) {
    int64_t used = 0, rows = s->block + 8; /* the last tile of a block may be incomplete */
    w->destinations = take(memory, &used, rows * (int64_t)(sizeof(struct destination) / 4));
    w->rows = take(memory, &used, rows * s->padded_dim);
    w->queries = take(memory, &used, rows * s->steps);
    w->units = take(memory, &used, s->padded_dim);
    w->nearest = take(memory, &used, s->ring * s->ranks);
    w->keys = take(memory, &used, s->num_sources + 16);
    w->sources = take(memory, &used, s->num_sources + 16);
    w->places = take(memory, &used, s->ranks + CANDIDATES);
    w->ranked = take(memory, &used, s->ranks + CANDIDATES);
    return used;
}

/* The ranks 0, d, 2d, … of the `ranks` sources with the highest scores, for each destination:

   destinations (B, G, N, c) and sources (B, G, M, c), neighbors (B, G, N, ⌈ranks/d⌉). `instructions` is at most what
   gkgnet_instructions gives. Returns 1 if there is no memory. */
int gkgnet_search(const void *destinations, const int64_t *destination_strides, const void *sources,
                  const int64_t *source_strides, int64_t half, int64_t batch, int64_t groups, int64_t num_destinations,
                  int64_t num_sources, int64_t dim, const float *rows, const float *columns, int64_t width,
                  int64_t ranks, int64_t dilation, int64_t threads, int64_t instructions, int64_t *neighbors) {
    const struct kernel *kernel = kernel_of(instructions);
    struct search s = {.destinations = destinations,
                       .sources = sources,
                       .destination_strides = destination_strides,
                       .source_strides = source_strides,
                       .half = half,
                       .batch = batch,
                       .groups = groups,
                       .num_destinations = num_destinations,
                       .num_sources = num_sources,
                       .dim = dim,
                       .rows = rows,
                       .columns = columns,
                       .width = width,
                       .ranks = ranks,
                       .dilation = dilation};
    int64_t items = batch * groups;
    s.panel = kernel->panel;
    s.padded_dim = (dim + 15) / 16 * 16;
    s.steps = kernel->half ? (dim + 1) / 2 : dim;
    s.num_panels = (num_sources + s.panel - 1) / s.panel;
    s.most = 2 * ranks + 16 > 64 ? 2 * ranks + 16 : 64;
    s.direct = ranks > MOST_RANKS || num_sources <= FEW_SOURCES;
    s.error = (dim + 16) * (kernel->half ? 0x1p-20f : 0x1p-21f) + (kernel->half && !half ? 0x1p-7f + 0x1p-16f : 0);
    int64_t share = items * num_destinations / (4 * threads), most = rows ? width : 32;
    most = most < LARGEST_BLOCK ? most : LARGEST_BLOCK;
    most = share < most ? share : most;
    s.block = most / 8 * 8 > 8 ? most / 8 * 8 : 8;
    s.back = (s.block + width - 1) / width * width;
    s.ring = s.back + s.block;

    int64_t kept = (ranks + dilation - 1) / dilation, blocks = (num_destinations + s.block - 1) / s.block;
    struct item nowhere;
    struct worker nobody;
    int64_t item_size = lay_out_item(&s, NULL, &nowhere), worker_size = lay_out_worker(&s, NULL, &nobody);
    int64_t at_once = PACKED / item_size < 1 ? 1 : PACKED / item_size < items ? PACKED / item_size : items;
    char *packed = aligned_alloc(64, at_once * item_size);
    int failed = !packed;
    if (failed) return 1;
#pragma omp parallel
    {
        struct worker worker;
        char *memory = aligned_alloc(64, worker_size);
        if (memory)
            lay_out_worker(&s, memory, &worker);
        else
            failed = 1;
        for (int64_t first = 0; first < items; first += at_once) {
            int64_t held = items - first < at_once ? items - first : at_once;
#pragma omp for schedule(static)
            for (int64_t task = 0; task < held * s.num_panels; task++) {
                struct item item;
                if (!memory) continue;
                lay_out_item(&s, packed + task / s.num_panels * item_size, &item);
                int64_t i = first + task / s.num_panels;
                item.source_offset = i / groups * source_strides[0] + i % groups * source_strides[1];
                kernel->pack(&s, &item, task % s.num_panels, worker.units);
            }
            worker.item = -1;
#pragma omp for schedule(static)
            for (int64_t task = 0; task < held * blocks; task++) {
                struct item item;
                if (!memory) continue;
                lay_out_item(&s, packed + task / blocks * item_size, &item);
                int64_t i = first + task / blocks, n = task % blocks * s.block;
                item.destination_offset = i / groups * destination_strides[0] + i % groups * destination_strides[1];
                item.neighbors = neighbors + i * num_destinations * kept;
                if (i != worker.item || n != worker.next) worker.item = i, worker.start = n;
                worker.next = n + s.block;
                int64_t count = num_destinations - n < s.block ? num_destinations - n : s.block;
                kernel->search_block(&s, &item, n, count, &worker);
            }
        }
        free(memory);
    }
    free(packed);
    return failed;
}

/* Number j of a row of bfloat16 (half = 1) or float32 (half = 0). */
INLINE float number(const void *row, int64_t j, int half) {
    if (!half) return ((const float *)row)[j];
    uint32_t bits = (uint32_t)((const uint16_t *)row)[j] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE void set_number(void *row, int64_t j, int half, float value) {
    if (!half) {
        ((float *)row)[j] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16; /* to even */
    ((uint16_t *)row)[j] = (uint16_t)(value == value ? rounded : bits >> 16 | 0x40);
}

/* One destination's maximum over its neighbours' rows, at most 64 channels; NaN is largest, of equal ones the first
   wins. Winners are as wide as the numbers here, so that both are compared at once. */
INLINE void max_rows_of(int half, const char *sources, int64_t stride, const int64_t *neighbors, int64_t num_neighbors,
                        int64_t dim, float *restrict values, int32_t *restrict winners) {
    const char *row = sources + neighbors[0] * stride;
    for (int64_t j = 0; j < dim; j++) values[j] = number(row, j, half);
    for (int64_t j = 0; j < dim && winners; j++) winners[j] = 0;
    for (int64_t k = 1; k < num_neighbors; k++) {
        row = sources + neighbors[k] * stride;
        if (winners)
            for (int64_t j = 0; j < dim; j++)
                winners[j] = number(row, j, half) <= values[j] || values[j] != values[j] ? winners[j] : (int32_t)k;
        for (int64_t j = 0; j < dim; j++) {
            float value = number(row, j, half);
            values[j] = value <= values[j] || values[j] != values[j] ? values[j] : value;
        }
    }
}

INLINE void max_parts(int half, const char *sources, int64_t stride, const int64_t *neighbors, int64_t num_neighbors,
                      int64_t dim, void *values, uint8_t *winners) {
    for (int64_t start = 0; start < dim; start += 64, sources += 64 * (half ? 2 : 4)) {
        float best[64];
        int32_t winner[64];
        int64_t length = dim - start < 64 ? dim - start : 64;
        max_rows_of(half, sources, stride, neighbors, num_neighbors, length, best, winners ? winner : NULL);
        for (int64_t j = 0; j < length; j++) set_number(values, start + j, half, best[j]);
        for (int64_t j = 0; j < length && winners; j++) winners[start + j] = (uint8_t)winner[j];
    }
}

VECTORISED
static void max_rows(const char *sources, int64_t stride, const int64_t *neighbors, int64_t num_neighbors, int64_t dim,
                     void *values, uint8_t *winners) {
    max_parts(0, sources, stride, neighbors, num_neighbors, dim, values, winners);
}

VECTORISED
static void max_rows_half(const char *sources, int64_t stride, const int64_t *neighbors, int64_t num_neighbors,
                          int64_t dim, void *values, uint8_t *winners) {
    max_parts(1, sources, stride, neighbors, num_neighbors, dim, values, winners);
}

/* Whether one of n neighbours is none of the sources. */
static int any_outside(const int64_t *neighbors, int64_t n, int64_t num_sources) {
    int outside = 0;
    for (int64_t i = 0; i < n; i++) outside |= neighbors[i] < 0 || neighbors[i] >= num_sources;
    return outside;
}

/* sources (B, G, M, c), bfloat16 if `half`, with strides of B, G and M, and neighbors (B, G, N, K) → values of the same
   dtype and, unless NULL, winners, both (B, N, G, c).

   Returns 1, with nothing written, if a neighbour is none of the M sources. */
int gkgnet_gather_max(const void *sources, const int64_t *strides, int64_t half, const int64_t *neighbors,
                      int64_t batch, int64_t groups, int64_t num_destinations, int64_t num_neighbors,
                      int64_t num_sources, int64_t dim, void *values, uint8_t *winners) {
    int64_t size = half ? sizeof(uint16_t) : sizeof(float);
    if (any_outside(neighbors, batch * groups * num_destinations * num_neighbors, num_sources)) return 1;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < batch * num_destinations; r++)
        for (int64_t g = 0; g < groups; g++) {
            int64_t b = r / num_destinations, n = r % num_destinations, out = (r * groups + g) * dim;
            const char *rows = (const char *)sources + (b * strides[0] + g * strides[1]) * size;
            const int64_t *index = neighbors + ((b * groups + g) * num_destinations + n) * num_neighbors;
            uint8_t *won = winners ? winners + out : NULL;
            char *row = (char *)values + out * size;
            (half ? max_rows_half : max_rows)(rows, strides[2] * size, index, num_neighbors, dim, row, won);
        }
    return 0;
}

/* Channels whose gradients are added up at once, so that their sums stay in cache. */
#define PART 16

/* The backward of gather_max: grad (B, N, G, c), bfloat16 if `half`, is added to the winners' rows of out (B, M, G, c),
   in float32.

   Returns, with nothing written, 1 if a neighbour is none of the M sources, 2 if a winner is none of the K neighbours;
   3 if there is no memory. */
int gkgnet_scatter_max(const void *grad, int64_t half, const int64_t *neighbors, const uint8_t *winners, int64_t batch,
                       int64_t groups, int64_t num_destinations, int64_t num_neighbors, int64_t num_sources,
                       int64_t dim, void *out) {
    if (any_outside(neighbors, batch * groups * num_destinations * num_neighbors, num_sources)) return 1;
    uint8_t highest = 0;
    for (int64_t i = 0; i < batch * groups * num_destinations * dim; i++)
        highest = winners[i] > highest ? winners[i] : highest;
    if (highest >= num_neighbors) return 2;
    int64_t parts = (dim + PART - 1) / PART;
    int failed = 0;
#pragma omp parallel
    {
        float *sums = malloc(num_sources * PART * sizeof(float));
        if (!sums) failed = 3;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < batch * groups * parts; task++) {
            if (!sums) continue;
            int64_t b = task / parts / groups, g = task / parts % groups, start = task % parts * PART;
            int64_t length = dim - start < PART ? dim - start : PART;
            memset(sums, 0, num_sources * PART * sizeof(float));
            for (int64_t n = 0; n < num_destinations; n++) {
                int64_t row = ((b * num_destinations + n) * groups + g) * dim + start;
                const int64_t *index = neighbors + ((b * groups + g) * num_destinations + n) * num_neighbors;
                for (int64_t j = 0; j < length; j++)
                    sums[index[winners[row + j]] * PART + j] += number(grad, row + j, (int)half);
            }
            for (int64_t m = 0; m < num_sources; m++)
                for (int64_t j = 0; j < length; j++)
                    set_number(out, ((b * num_sources + m) * groups + g) * dim + start + j, (int)half, sums[m * PART + j]);
        }
        free(sums);
    }
    return failed;
}
