/* Sums of signed values and of squares, in double precision and row after row: see sketch_kernel.py, which defines SUMS. */
#include <stddef.h>

#if defined(__x86_64__) && defined(__linux__)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif

enum { LINE = 16, AHEAD = 8 * SUMS }; /* floats: values lie in main memory and have to be asked for in time */

/* A float times a sign, and the square of a float as a double, are exact: only the order of the sums matters. */
FOR_EVERY_PROCESSOR
void sketch_rows(const float *restrict values, const float *restrict signs, size_t count, double *restrict sums,
                 double *restrict squares)
{
    const float *v = values, *s = signs, *end = values + count;
    for (; end - v >= SUMS; v += SUMS, s += SUMS) {
        for (int e = 0; e < SUMS; e += LINE)
            __builtin_prefetch(v + AHEAD + e);
        for (int e = 0; e < SUMS; e++) {
            double wide = v[e];
            sums[e] += v[e] * s[e];
            squares[e] += wide * wide;
        }
    }
    for (int e = 0; v < end; e++, v++, s++) {
        double wide = *v;
        sums[e] += *v * *s;
        squares[e] += wide * wide;
    }
}
