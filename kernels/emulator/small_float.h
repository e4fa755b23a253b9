// small_float.h - floating point numbers of 16 bits: __half and __nv_bfloat16 are two of them.
//
// An operation is computed in double and rounded once to nearest even. That is exact: double has
// more than twice the digits plus two, so the first rounding never spoils the second (Figueroa
// 1995); a fused multiply-add, to which that does not apply, takes care of itself.
#pragma once

template <int E, int M> struct EmuSmallFloat {      // bits of the exponent and of the mantissa
    uint16_t bits;

    static constexpr int BIAS = (1 << (E - 1)) - 1;
    static constexpr int INFINITE = ((1 << E) - 1) << M;

    EmuSmallFloat() = default;
    EmuSmallFloat(float x) : bits(rounded(x)) {}
    EmuSmallFloat(double x) : bits(rounded(x)) {}
    EmuSmallFloat(int x) : bits(rounded(x)) {}
    EmuSmallFloat(unsigned x) : bits(rounded(x)) {}
    EmuSmallFloat(long long x) : bits(of_integer(x)) {}
    static EmuSmallFloat of_bits(unsigned bits) {
        EmuSmallFloat x;
        x.bits = uint16_t(bits);
        return x;
    }

    static double power_of_two(int n) { return emu_bits<double>((long long)(n + 1023) << 52); }

    EMU_QUIET static uint16_t rounded(double x) {
        unsigned sign = emu_bits<unsigned long long>(x) >> 63 << 15;
        x = fabs(x);
        if (x != x) return 0x7fff;
        int exponent = int(emu_bits<unsigned long long>(x) >> 52) - 1023;
        if (exponent > BIAS) return uint16_t(sign | INFINITE);
        if (exponent < 1 - BIAS) exponent = 1 - BIAS;       // denormal numbers share this one
        // In units of the last place; what is carried over goes on into the exponent's bits.
        long long units = llrint(x * power_of_two(M - exponent));
        long long whole = units + ((long long)(exponent - (1 - BIAS)) << M);
        return uint16_t(sign | (whole < INFINITE ? unsigned(whole) : unsigned(INFINITE)));
    }
    static uint16_t of_integer(long long x) {       // its upper half cannot lie between two numbers
        return rounded(x > (1ll << 40) || x < -(1ll << 40) ? double(x | 1) : double(x));
    }
    // The element itself is read here, where it is counted, as a GPU reads it.
    __attribute__((always_inline)) double wide() const { return widened(bits); }
    EMU_QUIET static double widened(unsigned bits) {
        int exponent = bits >> M & ((1 << E) - 1), mantissa = bits & ((1 << M) - 1);
        double x = exponent == (1 << E) - 1 ? (mantissa ? double(NAN) : double(INFINITY))
                   : exponent ? (mantissa + (1 << M)) * power_of_two(exponent - BIAS - M)
                              : mantissa * power_of_two(1 - BIAS - M);
        return bits >> 15 ? -x : x;
    }
    operator float() const { return float(wide()); }

    friend EmuSmallFloat operator+(EmuSmallFloat a, EmuSmallFloat b) { return a.wide() + b.wide(); }
    friend EmuSmallFloat operator-(EmuSmallFloat a, EmuSmallFloat b) { return a.wide() - b.wide(); }
    friend EmuSmallFloat operator*(EmuSmallFloat a, EmuSmallFloat b) { return a.wide() * b.wide(); }
    friend EmuSmallFloat operator/(EmuSmallFloat a, EmuSmallFloat b) { return a.wide() / b.wide(); }
    friend EmuSmallFloat operator-(EmuSmallFloat a) { return of_bits(a.bits ^ 0x8000u); }
    EmuSmallFloat& operator+=(EmuSmallFloat b) { return *this = *this + b; }
    EmuSmallFloat& operator-=(EmuSmallFloat b) { return *this = *this - b; }
    EmuSmallFloat& operator*=(EmuSmallFloat b) { return *this = *this * b; }
    EmuSmallFloat& operator/=(EmuSmallFloat b) { return *this = *this / b; }
    friend bool operator==(EmuSmallFloat a, EmuSmallFloat b) { return a.wide() == b.wide(); }
    friend bool operator!=(EmuSmallFloat a, EmuSmallFloat b) { return a.wide() != b.wide(); }
    friend bool operator<(EmuSmallFloat a, EmuSmallFloat b) { return a.wide() < b.wide(); }
    friend bool operator<=(EmuSmallFloat a, EmuSmallFloat b) { return a.wide() <= b.wide(); }
    friend bool operator>(EmuSmallFloat a, EmuSmallFloat b) { return a.wide() > b.wide(); }
    friend bool operator>=(EmuSmallFloat a, EmuSmallFloat b) { return a.wide() >= b.wide(); }

    friend EmuSmallFloat __hadd(EmuSmallFloat a, EmuSmallFloat b) { return a + b; }
    friend EmuSmallFloat __hsub(EmuSmallFloat a, EmuSmallFloat b) { return a - b; }
    friend EmuSmallFloat __hmul(EmuSmallFloat a, EmuSmallFloat b) { return a * b; }
    friend EmuSmallFloat __hdiv(EmuSmallFloat a, EmuSmallFloat b) { return a / b; }
    friend EmuSmallFloat __hneg(EmuSmallFloat a) { return -a; }
    friend EmuSmallFloat __habs(EmuSmallFloat a) { return of_bits(a.bits & 0x7fffu); }
    friend EmuSmallFloat __hmin(EmuSmallFloat a, EmuSmallFloat b) { return fmin(a.wide(), b.wide()); }
    friend EmuSmallFloat __hmax(EmuSmallFloat a, EmuSmallFloat b) { return fmax(a.wide(), b.wide()); }
    friend EmuSmallFloat __hfma(EmuSmallFloat a, EmuSmallFloat b, EmuSmallFloat c) {
        // The product is exact. Of the sum, keep in its last bit that something was rounded off
        // ("round to odd", Boldo and Melquiond 2008), so that the second rounding is right.
        double product = a.wide() * b.wide(), addend = c.wide(), sum = product + addend;
        double back = sum - product, lost = (product - (sum - back)) + (addend - back);
        long long bits = emu_bits<long long>(sum);
        if (lost == lost && lost != 0.0 && !(bits & 1))
            sum = emu_bits<double>(bits + ((lost > 0.0) == (sum > 0.0) ? 1 : -1));
        return sum;
    }
    friend bool __heq(EmuSmallFloat a, EmuSmallFloat b) { return a == b; }
    friend bool __hne(EmuSmallFloat a, EmuSmallFloat b) { return a != b; }
    friend bool __hlt(EmuSmallFloat a, EmuSmallFloat b) { return a < b; }
    friend bool __hle(EmuSmallFloat a, EmuSmallFloat b) { return a <= b; }
    friend bool __hgt(EmuSmallFloat a, EmuSmallFloat b) { return a > b; }
    friend bool __hge(EmuSmallFloat a, EmuSmallFloat b) { return a >= b; }
    friend bool __hisnan(EmuSmallFloat a) { return (a.bits & 0x7fff) > INFINITE; }
    friend int __hisinf(EmuSmallFloat a) {
        return (a.bits & 0x7fff) != INFINITE ? 0 : a.bits >> 15 ? -1 : 1;
    }
    friend EmuSmallFloat hsqrt(EmuSmallFloat a) { return sqrt(a.wide()); }
    friend EmuSmallFloat hrsqrt(EmuSmallFloat a) { return 1.0 / sqrt(a.wide()); }
    friend EmuSmallFloat hrcp(EmuSmallFloat a) { return 1.0 / a.wide(); }
    friend EmuSmallFloat hexp(EmuSmallFloat a) { return exp(a.wide()); }
    friend EmuSmallFloat hlog(EmuSmallFloat a) { return log(a.wide()); }
    friend EmuSmallFloat htanh(EmuSmallFloat a) { return tanh(a.wide()); }

    friend EmuSmallFloat atomicAdd(EmuSmallFloat* p, EmuSmallFloat value,
                                   EmuPlace place = EmuPlace::here()) {
        return emu_atomic(p, [=](EmuSmallFloat old) { return old + value; }, place);
    }
};

template <class H> struct alignas(4) EmuPair {      // __half2, __nv_bfloat162
    H x, y;
    friend EmuPair operator+(EmuPair a, EmuPair b) { return {a.x + b.x, a.y + b.y}; }
    friend EmuPair operator-(EmuPair a, EmuPair b) { return {a.x - b.x, a.y - b.y}; }
    friend EmuPair operator*(EmuPair a, EmuPair b) { return {a.x * b.x, a.y * b.y}; }
    friend EmuPair operator/(EmuPair a, EmuPair b) { return {a.x / b.x, a.y / b.y}; }
    EmuPair& operator+=(EmuPair b) { return *this = *this + b; }
    EmuPair& operator-=(EmuPair b) { return *this = *this - b; }
    EmuPair& operator*=(EmuPair b) { return *this = *this * b; }
    friend EmuPair __hadd2(EmuPair a, EmuPair b) { return a + b; }
    friend EmuPair __hsub2(EmuPair a, EmuPair b) { return a - b; }
    friend EmuPair __hmul2(EmuPair a, EmuPair b) { return a * b; }
    friend EmuPair __h2div(EmuPair a, EmuPair b) { return a / b; }
    friend EmuPair __hneg2(EmuPair a) { return {-a.x, -a.y}; }
    friend EmuPair __hmin2(EmuPair a, EmuPair b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
    friend EmuPair __hmax2(EmuPair a, EmuPair b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
    friend EmuPair __hfma2(EmuPair a, EmuPair b, EmuPair c) {
        return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
    }
    friend float __low2float(EmuPair a) { return a.x; }
    friend float __high2float(EmuPair a) { return a.y; }
    friend EmuPair atomicAdd(EmuPair* p, EmuPair value, EmuPlace place = EmuPlace::here()) {
        return emu_atomic(p, [=](EmuPair old) { return old + value; }, place);
    }
};
