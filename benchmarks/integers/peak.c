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
#else
typedef __m256i vector; /* 16-bit pairs, as csrc/int8_conv takes where there is no VNNI */
#define STEP(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define SET _mm256_set1_epi8
#define PRODUCTS 16
#endif

#define SUMS 12
#define TURNS 4000000

int main(int count, char** names) {
  vector sums[SUMS], a = SET((char)count), b = SET(names[0][0]);
  for (int i = 0; i < SUMS; ++i) sums[i] = SET((char)i);
  printf("%lld\n", (long long)TURNS * SUMS * PRODUCTS);
  for (int round = 0; round < 20; ++round) {
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int turn = 0; turn < TURNS; ++turn) {
      for (int i = 0; i < SUMS; ++i) {
        sums[i] = STEP(sums[i], a, b);
        __asm__ volatile("" : "+v"(sums[i])); /* no turn is folded into another */
      }
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%.9f\n", (to.tv_sec - from.tv_sec) + 1e-9 * (to.tv_nsec - from.tv_nsec));
  }
  int kept = 0;
  for (int i = 0; i < SUMS; ++i) kept ^= ((int*)&sums[i])[0];
  return kept == 12345;
}
