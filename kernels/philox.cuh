// philox.cuh - random bits from a counter: Philox4x64-10 (Salmon et al. 2011), bit for bit as
// tensor/random.py has it from numpy.random.Philox.
//
// Element i of a draw takes half of one of the four 64-bit words that come of the key (seed, 0) and
// the counter (i / 8 + 1, draw, 0, 0): word i % 8 / 2, its low half first. So a mask can be made
// again anywhere, in any order, without being stored.
#pragma once

struct Philox {
    unsigned long long seed, draw, block, w0, w1, w2, w3;

    __device__ Philox(unsigned long long seed, unsigned long long draw)
        : seed(seed), draw(draw), block(~0ULL), w0(0), w1(0), w2(0), w3(0) {}

    // The words of eight elements, the first of them 8 * number.
    __device__ void make(unsigned long long number) {
        block = number;
        unsigned long long c0 = number + 1, c1 = draw, c2 = 0, c3 = 0, k0 = seed, k1 = 0;
#pragma unroll
        for (int round = 0; round < 10; round++) {
            unsigned long long high0 = __umul64hi(0xD2E7470EE14C6C93ULL, c0);
            unsigned long long low0 = 0xD2E7470EE14C6C93ULL * c0;
            unsigned long long high1 = __umul64hi(0xCA5A826395121157ULL, c2);
            unsigned long long low1 = 0xCA5A826395121157ULL * c2;
            c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
            k0 += 0x9E3779B97F4A7C15ULL, k1 += 0xBB67AE8584CAA73BULL;
        }
        w0 = c0, w1 = c1, w2 = c2, w3 = c3;
    }
    // The bits of element i. Neighbours that ask one after the other share the work.
    __device__ unsigned bits(unsigned long long i) {
        if (i / 8 != block) make(i / 8);
        unsigned long long low = i & 2 ? w1 : w0, high = i & 2 ? w3 : w2;
        unsigned long long word = i & 4 ? high : low;
        return i & 1 ? unsigned(word >> 32) : unsigned(word);
    }
};
