/* Random problems through every function of group_knn.c, for AddressSanitizer and UndefinedBehaviorSanitizer: every
   buffer is exactly as large as it must be. Arguments: seed, number of problems. Prints how many were solved. */

#include "group_knn.c"

#include <stdio.h>

static uint64_t state;

static int64_t below(int64_t n) { /* xorshift */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (int64_t)(state % (uint64_t)n);
}

static void *buffer(int64_t count, size_t size) {
    void *memory = malloc(count ? count * size : 1);
    if (!memory) abort();
    return memory;
}

static float random_number(int64_t kind) {
    const float special[] = {NAN, INFINITY, -INFINITY, 1e30f, 1e-40f, 0, 1, -1};
    return kind && below(8) == 0 ? special[kind == 1 ? below(8) : kind % 8] : (float)below(2001) / 1000 - 1;
}

/* `count` random features: float, or the upper halves of floats, which are bfloat16. */
static void *features(int64_t count, int half) {
    int64_t kind = below(9);
    float *values = buffer(count, sizeof(float));
    for (int64_t i = 0; i < count; i++) values[i] = random_number(kind);
    if (!half) return values;
    uint16_t *halves = buffer(count, sizeof(uint16_t));
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, 4);
        halves[i] = (uint16_t)(bits >> 16);
    }
    free(values);
    return halves;
}

/* Strides of B, G and the nodes of features (B, G, n, c) → the elements that they span. */
static int64_t layout(int64_t batch, int64_t groups, int64_t n, int64_t dim, int64_t *strides) {
    int64_t kind = below(3), gap = kind == 2 ? below(4) : 0;
    strides[0] = groups * n * (dim + gap);
    strides[1] = kind == 1 ? dim : n * (dim + gap);
    strides[2] = kind == 1 ? groups * dim : dim + gap;
    if (below(8) == 0) strides[0] = 0; /* expanded */
    return (batch - 1) * strides[0] + (groups - 1) * strides[1] + (n - 1) * strides[2] + dim;
}

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(2);
}

static void search_problem(void) {
    int64_t batch = 1 + below(3), groups = 1 + below(3), height = 1 + below(9), width = 1 + below(12);
    int64_t num_destinations = height * width, num_sources = 1 + below(below(4) ? 200 : 2000), dim = 1 + below(80);
    int64_t dilation = 1 + below(4), ranks = (1 + below(below(4) ? 12 : 90)) * dilation, half = below(2);
    ranks = ranks < num_sources ? ranks : num_sources;
    int64_t kept = (ranks + dilation - 1) / dilation, to[3], from[3];
    void *destinations = features(layout(batch, groups, num_destinations, dim, to), (int)half);
    void *sources = features(layout(batch, groups, num_sources, dim, from), (int)half);
    float *rows = NULL, *columns = NULL;
    if (below(2)) rows = features(height * num_sources, 0), columns = features(width * num_sources, 0);
    for (int64_t instructions = 0; instructions <= gkgnet_instructions(); instructions++) {
        int64_t count = batch * groups * num_destinations * kept;
        int64_t *neighbors = buffer(count, sizeof(int64_t));
        if (gkgnet_search(destinations, to, sources, from, half, batch, groups, num_destinations, num_sources, dim, rows,
                          columns, rows ? width : 1, ranks, dilation, 1 + below(4), instructions, neighbors))
            fail("the search found no memory");
        for (int64_t i = 0; i < count; i++)
            if (neighbors[i] < 0 || neighbors[i] >= num_sources) fail("the search found what is no source");
        free(neighbors);
    }
    free(destinations), free(sources), free(rows), free(columns);
}

static void aggregation_problem(void) {
    int64_t batch = 1 + below(3), groups = 1 + below(3), num_destinations = 1 + below(60), num_sources = 1 + below(60);
    int64_t dim = 1 + below(70), num_neighbors = 1 + below(below(8) ? 12 : 256), half = below(2), strides[3];
    int64_t count = batch * num_destinations * groups * dim, edges = batch * groups * num_destinations * num_neighbors;
    size_t size = half ? sizeof(uint16_t) : sizeof(float);
    void *sources = features(layout(batch, groups, num_sources, dim, strides), (int)half);
    int64_t *neighbors = buffer(edges, sizeof(int64_t));
    for (int64_t i = 0; i < edges; i++) neighbors[i] = below(num_sources);
    void *values = buffer(count, size);
    uint8_t *winners = buffer(count, 1);
    int64_t wrong = below(4);
    const int64_t outside[] = {-1, num_sources, INT64_MAX, INT64_MIN};
    if (!wrong) neighbors[below(edges)] = outside[below(4)];
    int result = gkgnet_gather_max(sources, strides, half, neighbors, batch, groups, num_destinations, num_neighbors,
                                   num_sources, dim, values, below(4) ? winners : NULL);
    if (result != !wrong) fail("gather_max takes a neighbour that is no source");
    for (int64_t i = 0; i < count; i++) winners[i] = (uint8_t)below(num_neighbors);
    void *grad = features(count, (int)half), *out = buffer(batch * num_sources * groups * dim, size);
    int64_t beyond = wrong && num_neighbors < 256 && !below(4);
    if (beyond) winners[below(count)] = (uint8_t)(num_neighbors + below(256 - num_neighbors));
    result = gkgnet_scatter_max(grad, half, neighbors, winners, batch, groups, num_destinations, num_neighbors, num_sources,
                                dim, out);
    if (result != (wrong ? 2 * beyond : 1)) fail("scatter_max takes a neighbour or rank that does not exist");
    free(sources), free(neighbors), free(values), free(winners), free(grad), free(out);
}

int main(int count, char **words) {
    if (count != 3 || gkgnet_interface() < 3) return 3;
    state = strtoull(words[1], NULL, 10) * 2654435761u + 88172645463325252u;
    int64_t problems = strtoll(words[2], NULL, 10);
    for (int64_t i = 0; i < problems; i++) search_problem(), aggregation_problem();
    printf("%lld searches with %d instruction sets and %lld aggregations\n", (long long)problems,
           gkgnet_instructions() + 1, (long long)problems);
    return 0;
}
