/* The search of group_knn.c for one instruction set; group_knn.c includes this file once for each, with

   NAME(x)  the name of x for it,
   TARGET   the attribute that lets the compiler use it,
   LANES    numbers in one of its registers,
   ROWS     destinations that are compared at once, so that their 2 · ROWS registers of scores stay in registers,
   HALF     1 if the first comparison multiplies bfloat16 pairs, 0 if float32.

   Tiles of ROWS destinations × 2 · LANES sources are compared approximately, and the few sources that can be among the
   nearest are collected. Then only these are compared exactly, by `exact_score`, which adds up 16 partial sums in an
   order of its own. So the result is the same for each instruction set (that fuses multiply and add), tile and number
   of threads, and bfloat16 products choose what float32 products choose.

   Proof that no nearest source is dropped. Let q be twice a destination of length 1, k a source of length 1, c their
   channels, b the bias, u = 2^-24. The exact score is q·k in float32, then less b; the approximate one replaces q·k.

   - Float32 sums of c products, in whatever order, are wrong by at most (c + 16)·u·|q||k| ≤ 2·(c + 16)·u and a little, so
     two of them differ by 4·(c + 16)·u. We allow 8·(c + 16)·u = (c + 16)·2^-21.
   - bfloat16 rounds a number by at most 2^-9 of it, a product of two by 2^-8 + 2^-18, so q·k by 2^-7 + 2^-17. We allow
     2^-7 + 2^-16 and, as the instruction may round twice a step, (c + 16)·2^-20. Bfloat16 features are scaled by powers
     of two instead, which loses nothing: then only the latter is needed, for the sum and three roundings of the scale.
   - Both scores e (exact) and a then lose b, which rounds each once: |e − a| ≤ error + u·|e| + u·|a|.

   If K sources have a ≥ t, then each has e ≥ t − error − 3u·|t|, and so has the K-th nearest. A source as near as that
   has a ≥ t − 2·error − 7u·|t|. `lowered` takes off 8u·|t|. Where t comes from exact scores, `error` counts once. NaN and
   infinities are the same in both scores, and lower no bound. */

#define PANEL (2 * LANES)

typedef float NAME(vector) __attribute__((vector_size(4 * LANES)));
typedef int32_t NAME(integers) __attribute__((vector_size(4 * LANES)));
typedef int32_t NAME(loose_integers) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float NAME(loose) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define vector NAME(vector)
#define integers NAME(integers)
#define load(address) (*(const NAME(loose) *)(address))
#define load_integers(address) (*(const NAME(loose_integers) *)(address))

/* The sum of 16 partial sums, the halves added to each other again and again. */
INLINE TARGET float NAME(total)(const vector *sums) {
    union {
        vector whole[16 / LANES];
        four quarters[4];
    } parts;
    for (int v = 0; v < 16 / LANES; v++) parts.whole[v] = sums[v];
    four sum = (parts.quarters[0] + parts.quarters[2]) + (parts.quarters[1] + parts.quarters[3]);
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* The inner product of two rows whose length is a multiple of 16. */
INLINE TARGET float NAME(product)(const float *left, const float *right, int64_t length) {
    vector sums[16 / LANES] = {0};
    for (int64_t j = 0; j < length; j += 16)
        for (int v = 0; v < 16 / LANES; v++)
            sums[v] += load(left + j + v * LANES) * load(right + j + v * LANES);
    return NAME(total)(sums);
}

/* Bit j: not values[j] < bound, so NaN counts as high. */
INLINE TARGET uint32_t NAME(reach)(vector values, float bound) {
#if LANES == 16
    return _mm512_cmp_ps_mask((__m512)values, _mm512_set1_ps(bound), _CMP_NLT_UQ);
#elif LANES == 8
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)values, _mm256_set1_ps(bound), _CMP_NLT_UQ));
#elif defined(__SSE2__)
    return (uint32_t)_mm_movemask_ps(_mm_cmpnlt_ps((__m128)values, _mm_set1_ps(bound)));
#else
    uint32_t bits = 0;
    for (int j = 0; j < LANES; j++) bits |= (uint32_t)!(values[j] < bound) << j;
    return bits;
#endif
}

/* scores += unit · keys, where a unit is a float32 number or a pair of bfloat16 numbers. */
INLINE TARGET vector NAME(add_product)(vector scores, float unit, vector keys) {
#if HALF
    return (vector)_mm512_dpbf16_ps((__m512)scores, (__m512bh)keys, (__m512bh)_mm512_set1_ps(unit));
#else
    return scores + unit * keys;
#endif
}

/* A row of features → `row`, of length `scale`, filled up with zeros, and `units`, what add_product takes. Returns the
   factor that gives products with these units their length. */
INLINE TARGET float NAME(prepare)(const struct search *s, const void *features, int64_t offset, float scale, float *row,
                                  float *units) {
    read_row(features, offset, s->half, s->dim, row);
    for (int64_t j = s->dim; j < s->padded_dim; j++) row[j] = 0;
    float length = sqrtf(NAME(product)(row, row, s->padded_dim)), factor = 1;
    if (s->dim == 1) length = fabsf(row[0]); /* whose square may be infinite, as PyTorch has it */
    length = length < 1e-12f ? 1e-12f : length; /* NaN stays */
#if HALF
    if (s->half) { /* to multiply by a power of two loses nothing */
        int exponent = 0;
        float power = length < INFINITY ? (frexpf(length, &exponent), ldexpf(1, 2 - exponent)) : 1 / length;
        for (int64_t j = 0; j < s->padded_dim; j++) units[j] = row[j] * power;
        factor = length < INFINITY ? scale / (length * power) : 1;
    }
#endif
    for (int64_t j = 0; j < s->padded_dim; j++) row[j] = row[j] / length * scale;
#if HALF
    const float *numbers = s->half ? units : row;
    for (int64_t j = 0; j < s->padded_dim; j += 16) {
        __m256bh pairs = _mm512_cvtneps_pbh(_mm512_loadu_ps(numbers + j));
        memcpy(units + j / 2, &pairs, sizeof pairs);
    }
#else
    memcpy(units, row, s->dim * sizeof(float));
#endif
    return factor;
}

/* The sources of one panel → their rows, units and factors; 0 for those that fill up the last. */
TARGET static void NAME(pack)(const struct search *s, const struct item *item, int64_t panel, float *units) {
    float *packed = item->panels + panel * s->steps * PANEL;
    for (int64_t j = 0; j < PANEL; j++) {
        int64_t m = panel * PANEL + j;
        item->factors[m] = 0;
        if (m < s->num_sources)
            item->factors[m] = NAME(prepare)(s, s->sources, item->source_offset + m * s->source_strides[2], 1,
                                             item->rows + m * s->padded_dim, units);
        for (int64_t step = 0; step < s->steps; step++) packed[step * PANEL + j] = m < s->num_sources ? units[step] : 0;
    }
}

/* Twice the similarity less the bias: the score that decides. */
INLINE TARGET float NAME(exact_score)(const struct search *s, const struct item *item, const struct destination *d,
                                      int64_t m) {
    float score = NAME(product)(d->row, item->rows + m * s->padded_dim, s->padded_dim);
    return d->row_bias ? score - (d->row_bias[m] + d->column_bias[m]) : score;
}

/* How many of the keys are at least `bound`; n is a multiple of 16. */
INLINE TARGET int32_t NAME(count)(const int32_t *keys, int64_t n, int32_t bound) {
    int32_t count = 0;
    for (int64_t i = 0; i < n; i++) count += keys[i] >= bound;
    return count;
}

/* A bound that at least `ranks` of the keys reach and at most `ranks + more`, unless keys are equal: with more = 0 the
   key of the last rank. `keys` is filled up to a multiple of 16. */
TARGET static int32_t NAME(bound_of)(int32_t *keys, int64_t n, int ranks, int more) {
    int32_t lowest = keys[0], highest = keys[0];
    for (int64_t i = 0; i < n; i++) {
        lowest = keys[i] < lowest ? keys[i] : lowest;
        highest = keys[i] > highest ? keys[i] : highest;
    }
    for (int64_t i = n; i % 16; i++) keys[i] = INT32_MIN;
    int64_t low = lowest, high = highest; /* at least `ranks` reach low, fewer reach high + 1 */
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        int32_t count = NAME(count)(keys, (n + 15) / 16 * 16, (int32_t)middle);
        if (count < ranks) {
            high = middle - 1;
        } else {
            low = middle;
            if (count <= ranks + more) break;
        }
    }
    return (int32_t)low;
}

/* Drop what cannot be among the `ranks` nearest: what is below the last of them by more than both can be wrong. */
TARGET static void NAME(tighten)(const struct search *s, struct destination *d) {
    float last = score_of(NAME(bound_of)(d->keys, d->count, s->ranks, 2 + s->ranks / 8));
    d->bound = lowered(last, 2 * s->error);
    int32_t lowest = key_of(d->bound), kept = 0;
    for (int32_t i = 0; i < d->count; i++) {
        int32_t key = d->keys[i], source = d->sources[i];
        d->keys[kept] = key, d->sources[kept] = source;
        kept += key >= lowest;
    }
    d->count = kept;
    d->most = kept > d->most / 2 ? 2 * kept : d->most;
    d->most = d->most < CANDIDATES - PANEL ? d->most : CANDIDATES - PANEL;
}

/* Of n sources and their keys, the `ranks` with the highest keys → `ranked`, highest first, of equal ones the first.
   `places` and `ranked` have room for ranks + CANDIDATES numbers. */
TARGET static void NAME(rank)(int32_t *keys, int32_t *sources, int64_t n, int ranks, int32_t *places, int32_t *ranked) {
    if (n > MOST_RANKED && n > ranks) {
        int32_t last = NAME(bound_of)(keys, n, ranks, 0), kept = 0, equal = ranks;
        for (int64_t i = 0; i < n; i++) equal -= keys[i] > last;
        for (int64_t i = 0; i < n && kept < ranks; i++) {
            int take = keys[i] > last || (keys[i] == last && equal-- > 0);
            keys[kept] = keys[i], sources[kept] = sources[i];
            kept += take;
        }
        n = ranks;
    }
    for (int64_t i = n; i % LANES; i++) keys[i] = INT32_MIN;
    integers order;
    for (int32_t j = 0; j < LANES; j++) order[j] = j;
    for (int64_t i = 0; i < n; i += LANES) { /* a key's place is the number of those before it */
        integers key = load_integers(keys + i), place = {0};
        for (int64_t j = 0; j < i; j++) place -= keys[j] >= key;
        for (int32_t j = 0; j < LANES; j++) place -= (keys[i + j] > key) | ((keys[i + j] == key) & (order > j));
        for (int64_t j = i + LANES; j < n; j++) place -= keys[j] > key;
        memcpy(places + i, &place, sizeof place);
    }
    for (int64_t i = 0; i < n; i++) ranked[places[i]] = sources[i];
}

/* Note those of the sources m, m + 1, … whose bit is set. */
INLINE TARGET void NAME(append)(struct destination *d, vector scores, uint32_t bits, int32_t m) {
    integers keys = (integers)((vector)((integers)scores & (scores == scores)) + 0.0f);
    keys |= (scores != scores) & INFINITE; /* NaN counts as highest */
    keys ^= (keys >> 31) & INT32_MAX;
#if LANES == 16
    const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i sources = _mm512_add_epi32(order, _mm512_set1_epi32(m));
    _mm512_storeu_si512(d->keys + d->count, _mm512_maskz_compress_epi32((__mmask16)bits, (__m512i)keys));
    _mm512_storeu_si512(d->sources + d->count, _mm512_maskz_compress_epi32((__mmask16)bits, sources));
    d->count += __builtin_popcount(bits);
#else
    int32_t numbers[LANES];
    memcpy(numbers, &keys, sizeof numbers);
    for (; bits; bits &= bits - 1) {
        int j = __builtin_ctz(bits);
        d->keys[d->count] = numbers[j], d->sources[d->count++] = m + j;
    }
#endif
}

/* Compare a tile of destinations with the sources of panels `from` … `to` − 1, and note which reach the bounds. */
TARGET static void NAME(scan)(const struct search *s, const struct item *item, const float *queries,
                              struct destination *tile, int rows, int64_t from, int64_t to) {
    for (int64_t panel = from; panel < to; panel++) {
        const float *keys = item->panels + panel * s->steps * PANEL, *query = queries;
        vector scores[ROWS][2];
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) scores[i][0] = scores[i][1] = (vector){0};
        for (int64_t step = 0; step < s->steps; step++, keys += PANEL, query += ROWS) {
            vector left = load(keys), right = load(keys + LANES);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++) {
                scores[i][0] = NAME(add_product)(scores[i][0], query[i], left);
                scores[i][1] = NAME(add_product)(scores[i][1], query[i], right);
            }
        }
        int64_t m = panel * PANEL, valid = s->num_sources - m < PANEL ? s->num_sources - m : PANEL;
#if HALF
        if (s->half) {
            vector left = load(item->factors + m), right = load(item->factors + m + LANES);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++)
                scores[i][0] *= left * tile[i].factor, scores[i][1] *= right * tile[i].factor;
        }
#endif
        if (s->rows) {
            const float *biases[ROWS][2];
            float last[ROWS][2][PANEL];
            for (int i = 0; i < ROWS; i++) {
                biases[i][0] = tile[i].row_bias + m, biases[i][1] = tile[i].column_bias + m;
                for (int k = 0; k < 2 && valid < PANEL; k++) { /* of the last panel, what there is */
                    memset(last[i][k], 0, sizeof last[i][k]);
                    biases[i][k] = memcpy(last[i][k], biases[i][k], valid * sizeof(float));
                }
            }
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++) {
                scores[i][0] -= load(biases[i][0]) + load(biases[i][1]);
                scores[i][1] -= load(biases[i][0] + LANES) + load(biases[i][1] + LANES);
            }
        }
        uint32_t hits[ROWS], any = 0;
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            hits[i] = NAME(reach)(scores[i][0], tile[i].bound) | NAME(reach)(scores[i][1], tile[i].bound) << LANES;
            any |= hits[i];
        }
        if (!any) continue;
        vector values[ROWS][2];
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) values[i][0] = scores[i][0], values[i][1] = scores[i][1];
        for (int i = 0; i < rows; i++) {
            struct destination *d = tile + i;
            uint32_t bits = hits[i] & (0xffffffffu >> (32 - valid));
            if (!bits || d->overflows) continue;
            NAME(append)(d, values[i][0], bits & ((1u << LANES) - 1), (int32_t)m);
            NAME(append)(d, values[i][1], bits >> LANES, (int32_t)(m + LANES));
            if (d->count > d->most) NAME(tighten)(s, d);
            d->overflows = d->count > CANDIDATES - PANEL;
        }
    }
}

/* The neighbours of destinations `first` … `first` + `count` − 1 of an item. */
TARGET static void NAME(search_block)(const struct search *s, const struct item *item, int64_t first, int64_t count,
                                      struct worker *w) {
    int64_t tiles = (count + ROWS - 1) / ROWS, size = s->steps * ROWS;
    for (int64_t i = 0; i < tiles * ROWS; i++) {
        struct destination *d = w->destinations + i;
        int64_t n = first + (i < count ? i : 0);
        d->row = w->rows + i * s->padded_dim;
        d->row_bias = s->rows ? s->rows + n / s->width * s->num_sources : NULL;
        d->column_bias = s->rows ? s->columns + n % s->width * s->num_sources : NULL;
        d->count = 0, d->overflows = 0, d->most = (int32_t)s->most;
        int64_t offset = item->destination_offset + n * s->destination_strides[2];
        d->factor = NAME(prepare)(s, s->destinations, offset, 2, d->row, w->units);
        float *queries = w->queries + i / ROWS * size + i % ROWS;
        for (int64_t step = 0; step < s->steps; step++) queries[step * ROWS] = w->units[step];
        d->bound = i < count ? -INFINITY : INFINITY;
        if (i >= count || s->direct || n - s->back < w->start) continue;
        /* At least as many sources as ranks reach the lowest score of those that were nearest to a destination
           close by. */
        const int32_t *seeds = w->nearest + (n - s->back) % s->ring * s->ranks;
        float lowest = INFINITY;
        for (int64_t k = 0; k < s->ranks; k++) {
            float score = NAME(exact_score)(s, item, d, seeds[k]);
            lowest = score < lowest ? score : lowest;
        }
        d->bound = lowered(lowest, s->error);
    }
    int64_t chunk = CHUNK / (s->steps * PANEL * sizeof(float)) + 1;
    for (int64_t from = 0; from < s->num_panels && !s->direct; from += chunk)
        for (int64_t t = 0; t < tiles; t++) {
            int64_t to = from + chunk < s->num_panels ? from + chunk : s->num_panels;
            int rows = count - t * ROWS < ROWS ? (int)(count - t * ROWS) : ROWS;
            NAME(scan)(s, item, w->queries + t * size, w->destinations + t * ROWS, rows, from, to);
        }
    for (int64_t i = 0; i < count; i++) {
        struct destination *d = w->destinations + i;
        int32_t *keys = d->keys, *sources = d->sources, n = d->count;
        if (d->overflows || s->direct) {
            keys = w->keys, sources = w->sources, n = (int32_t)s->num_sources;
            for (int32_t m = 0; m < n; m++) sources[m] = m;
        }
        for (int32_t c = 0; c < n; c++) keys[c] = key_of(NAME(exact_score)(s, item, d, sources[c]));
        NAME(rank)(keys, sources, n, (int)s->ranks, w->places, w->ranked);
        memcpy(w->nearest + (first + i) % s->ring * s->ranks, w->ranked, s->ranks * sizeof(int32_t));
        int64_t *out = item->neighbors + (first + i) * ((s->ranks + s->dilation - 1) / s->dilation);
        for (int64_t k = 0; k < s->ranks; k += s->dilation) *out++ = w->ranked[k];
    }
}

static const struct kernel NAME(kernel) = {PANEL, ROWS, HALF, NAME(pack), NAME(search_block)};

#undef vector
#undef integers
#undef load
#undef load_integers
#undef PANEL
#undef NAME
#undef TARGET
#undef LANES
#undef ROWS
#undef HALF
