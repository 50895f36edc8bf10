/* Products of 8 bits per second at best: independent sums in registers, no memory.
 * Prints the products of one call, then the seconds of each of 20 calls. */
#include <immintrin.h>
#include <stdio.h>
#include <time.h>

#if defined(__AVX512VNNI__)
typedef __m512i vector;
#define STEP(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#define SET _mm512_set1_epi8
#define PRODUCTS 64
#elif defined(__AVXVNNI__)
typedef __m256i vector;
#define STEP(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#define SET _mm256_set1_epi8
#define PRODUCTS 32
#elif defined(__AVX512BW__) /* 16-bit pairs, as csrc/int8_conv takes where there is no VNNI */
typedef __m512i vector;
#define STEP(sum, a, b) _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))
#define SET _mm512_set1_epi8
#define PRODUCTS 32
#elif defined(__AVX2__)
typedef __m256i vector;
#define STEP(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define SET _mm256_set1_epi8
#define PRODUCTS 16
#else
typedef __m128i vector;
#define STEP(sum, a, b) _mm_add_epi32(sum, _mm_madd_epi16(a, b))
#define SET _mm_set1_epi8
#define PRODUCTS 8
#endif

#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define SUMS 12
#define TURNS 4000000

/* Sums have names, because those of an array went through memory. The empty statement changes
 * them and a, for all that the compiler knows: nothing is left out or computed before the loop. */
#define START(i) vector sum##i = SET((char)i);
#define TURN(i)                \
  sum##i = STEP(sum##i, a, b); \
  __asm__ volatile("" : "+v"(sum##i), "+v"(a));

int main(int count, char** names) {
  vector a = SET((char)count), b = SET(names[0][0]);
  EACH(START)
  printf("%lld\n", (long long)TURNS * SUMS * PRODUCTS);
  for (int round = 0; round < 20; ++round) {
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int turn = 0; turn < TURNS; ++turn) {
      EACH(TURN)
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%.9f\n", (to.tv_sec - from.tv_sec) + 1e-9 * (to.tv_nsec - from.tv_nsec));
  }
}
