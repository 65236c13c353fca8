/* Loads the compiled loops of a wheel as PyTorch's process does, and holds what they compute against plain loops: for an
   architecture that the tests themselves do not run on. Argument: the library. */

#include <dlfcn.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GROUPS 2
#define DESTINATIONS 60
#define SOURCES 300
#define DIM 24
#define RANKS 9

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void *function(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) fail(name);
    return found;
}

/* From −1 to 1, and exact in bfloat16. */
static void draw(float *values, int64_t count) {
    for (int64_t i = 0; i < count; i++) values[i] = (float)(rand() % 255 - 127) / 128;
}

static void to_bfloat16(const float *values, uint16_t *halves, int64_t count) {
    for (int64_t i = 0; i < count; i++) memcpy(halves + i, (const char *)(values + i) + 2, 2);
}

static double similarity(const float *a, const float *b) {
    double product = 0, left = 0, right = 0;
    for (int j = 0; j < DIM; j++) product += a[j] * b[j], left += a[j] * a[j], right += b[j] * b[j];
    return product / sqrt(left * right);
}

static int descending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Each rank must be as similar as plain sorting makes it: which of two equal sources comes first is not compared. */
static void check_search(void *library, int half, int instructions) {
    static float destinations[GROUPS * DESTINATIONS * DIM], sources[GROUPS * SOURCES * DIM];
    static uint16_t half_destinations[GROUPS * DESTINATIONS * DIM], half_sources[GROUPS * SOURCES * DIM];
    static int64_t neighbors[GROUPS * DESTINATIONS * RANKS];
    int64_t to[] = {0, DESTINATIONS * DIM, DIM}, from[] = {0, SOURCES * DIM, DIM};
    int (*search)(const void *, const int64_t *, const void *, const int64_t *, int64_t, int64_t, int64_t, int64_t,
                  int64_t, int64_t, const float *, const float *, int64_t, int64_t, int64_t, int64_t, int64_t,
                  int64_t *) = function(library, "gkgnet_search");
    draw(destinations, GROUPS * DESTINATIONS * DIM), draw(sources, GROUPS * SOURCES * DIM);
    to_bfloat16(destinations, half_destinations, GROUPS * DESTINATIONS * DIM);
    to_bfloat16(sources, half_sources, GROUPS * SOURCES * DIM);
    if (search(half ? (void *)half_destinations : destinations, to, half ? (void *)half_sources : sources, from, half, 1,
               GROUPS, DESTINATIONS, SOURCES, DIM, NULL, NULL, 1, RANKS, 1, omp_get_max_threads(), instructions,
               neighbors))
        fail("the search found no memory");
    for (int g = 0; g < GROUPS; g++)
        for (int n = 0; n < DESTINATIONS; n++) {
            double all[SOURCES];
            const float *row = destinations + (g * DESTINATIONS + n) * DIM, *rows = sources + g * SOURCES * DIM;
            for (int m = 0; m < SOURCES; m++) all[m] = similarity(row, rows + m * DIM);
            const int64_t *found = neighbors + (g * DESTINATIONS + n) * RANKS;
            double scores[RANKS];
            for (int k = 0; k < RANKS; k++) scores[k] = all[found[k]];
            qsort(all, SOURCES, sizeof(double), descending);
            for (int k = 0; k < RANKS; k++)
                if (fabs(scores[k] - all[k]) > 1e-6) fail("a neighbour is not the nearest");
        }
}

static void check_gather_max(void *library) {
    static float sources[GROUPS * SOURCES * DIM], values[GROUPS * DESTINATIONS * DIM];
    static uint8_t ranks[GROUPS * DESTINATIONS * DIM];
    static int64_t neighbors[GROUPS * DESTINATIONS * RANKS];
    int64_t strides[] = {0, SOURCES * DIM, DIM};
    int (*gather_max)(const void *, const int64_t *, int64_t, const int64_t *, int64_t, int64_t, int64_t, int64_t, int64_t,
                      int64_t, void *, uint8_t *) = function(library, "gkgnet_gather_max");
    draw(sources, GROUPS * SOURCES * DIM);
    for (int i = 0; i < GROUPS * DESTINATIONS * RANKS; i++) neighbors[i] = rand() % SOURCES;
    if (gather_max(sources, strides, 0, neighbors, 1, GROUPS, DESTINATIONS, RANKS, SOURCES, DIM, values, ranks))
        fail("gather_max refused neighbours that exist");
    for (int g = 0; g < GROUPS; g++)
        for (int n = 0; n < DESTINATIONS; n++)
            for (int j = 0; j < DIM; j++) {
                float most = -INFINITY;
                for (int k = 0; k < RANKS; k++) {
                    int64_t m = neighbors[(g * DESTINATIONS + n) * RANKS + k];
                    most = fmaxf(most, sources[(g * SOURCES + m) * DIM + j]);
                }
                if (values[(n * GROUPS + g) * DIM + j] != most) fail("a maximum is wrong");
            }
}

/* Of batch norm with weight 1 and bias 0, then GELU, in float64. */
static void check_norm_gelu(void *library) {
    enum { ROWS = 700 };
    static float x[ROWS * DIM], y[ROWS * DIM];
    float weight[DIM], bias[DIM], mean[DIM], variance[DIM];
    int (*norm_gelu)(const float *, int64_t, int64_t, const float *, const float *, float, float *, float *, float *) =
        function(library, "gkgnet_norm_gelu");
    draw(x, ROWS * DIM);
    for (int j = 0; j < DIM; j++) weight[j] = 1, bias[j] = 0;
    if (norm_gelu(x, ROWS, DIM, weight, bias, 1e-5f, mean, variance, y)) fail("norm_gelu found no memory");
    for (int j = 0; j < DIM; j++) {
        double sum = 0, squares = 0;
        for (int i = 0; i < ROWS; i++) sum += x[i * DIM + j], squares += (double)x[i * DIM + j] * x[i * DIM + j];
        for (int i = 0; i < ROWS; i++) {
            double z = (x[i * DIM + j] - sum / ROWS) / sqrt(squares / ROWS - sum / ROWS * sum / ROWS + 1e-5);
            if (fabs(y[i * DIM + j] - z * erfc(-z / sqrt(2)) / 2) > 1e-5) fail("batch norm and GELU are wrong");
        }
    }
}

int main(int count, char **words) {
    if (count != 2 || omp_get_max_threads() < 1) return 2; /* the call keeps OpenMP linked, whose functions it needs */
    void *library = dlopen(words[1], RTLD_NOW);
    if (!library) fail(dlerror());
    int (*instructions)(void) = function(library, "gkgnet_instructions");
    int best = instructions();
    for (int half = 0; half < 2; half++)
        for (int set = 0; set <= best; set++) check_search(library, half, set);
    check_gather_max(library);
    check_norm_gelu(library);
    printf("%d instruction sets\n", best + 1);
    return 0;
}
