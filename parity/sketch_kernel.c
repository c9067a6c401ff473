/* Sums of signed values and of squares, in double precision and in the order of rows: see sketch_kernel.py, which defines SUMS. */
#include <stddef.h>

#if defined(__x86_64__) && defined(__linux__)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif

enum { LINE = 16, AHEAD = 8 * SUMS }; /* floats; values come from main memory, where nobody else asks for them in time */

/* A float times a sign, and the square of a float as a double, are exact: only the order of the sums matters. */
FOR_EVERY_PROCESSOR
void sketch_rows(const float *restrict values, const float *restrict signs, size_t count, double *restrict sums,
                 double *restrict squares)
{
    const float *v = values, *s = signs, *end = values + count;
    for (; end - v >= 2 * SUMS; v += 2 * SUMS, s += 2 * SUMS) {
        for (int e = 0; e < 2 * SUMS; e += LINE)
            __builtin_prefetch(v + AHEAD + e);
        for (int e = 0; e < SUMS; e++) {
            float one = v[e], two = v[SUMS + e];
            double wide_one = one, wide_two = two;
            sums[e] = (sums[e] + one * s[e]) + two * s[SUMS + e];
            squares[e] += wide_one * wide_one + wide_two * wide_two;
        }
    }
    for (int e = 0; v < end; v++, s++, e = e + 1 < SUMS ? e + 1 : 0) {
        double wide = *v;
        sums[e] += *v * *s;
        squares[e] += wide * wide;
    }
}
