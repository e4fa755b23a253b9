// atomics.h - atomic operations, for the types that CUDA has them for; part of cuda_emulator.h.
//
// Several workers may run blocks at once, so these are atomic for the host's CPU, too. Additions
// of floats then happen in an order that is not the same each time; with one worker it is.
#pragma once

#ifdef EMU_CHECKED
// One worker runs all blocks, and no thread is interrupted: a change needs no care. The check is
// told what it is, and must not see its parts.
template <class T, class F> EMU_UNCHECKED T emu_replace(T* p, F f) {
    T old = *p;
    *p = f(old);
    return old;
}
template <class T, class F> inline T emu_atomic(T* p, F f, EmuPlace place) {
    emu_atomic_access(p, sizeof(T), place);
    return emu_replace(p, f);
}
#else
template <size_t bytes> struct EmuWord;
template <> struct EmuWord<2> { typedef uint16_t type; };
template <> struct EmuWord<4> { typedef uint32_t type; };
template <> struct EmuWord<8> { typedef uint64_t type; };

// Replace *p by f(*p); gives what was there.
template <class T, class F> inline T emu_atomic(T* p, F f, EmuPlace) {
    typedef typename EmuWord<sizeof(T)>::type Word;
    Word* word = reinterpret_cast<Word*>(p);
    Word before = __atomic_load_n(word, __ATOMIC_RELAXED), after;
    T old;
    do {
        memcpy(static_cast<void*>(&old), &before, sizeof(T));
        T changed = f(old);
        memcpy(&after, &changed, sizeof(T));
    } while (!__atomic_compare_exchange_n(word, &before, after, true, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED));
    return old;
}
#endif

#define EMU_ATOMIC(name, T, expression) \
    inline T name(T* p, T value, EmuPlace place = EmuPlace::here()) { \
        return emu_atomic(p, [=](T old) -> T { (void)old; return expression; }, place); \
    }
// `int` wraps around, as on a GPU, without the undefined behaviour of C++.
EMU_ATOMIC(atomicAdd, int, int(unsigned(old) + unsigned(value)))
EMU_ATOMIC(atomicAdd, unsigned, old + value)
EMU_ATOMIC(atomicAdd, unsigned long long, old + value)
EMU_ATOMIC(atomicAdd, float, old + value)
EMU_ATOMIC(atomicAdd, double, old + value)
EMU_ATOMIC(atomicSub, int, int(unsigned(old) - unsigned(value)))
EMU_ATOMIC(atomicSub, unsigned, old - value)
EMU_ATOMIC(atomicExch, int, value)
EMU_ATOMIC(atomicExch, unsigned, value)
EMU_ATOMIC(atomicExch, unsigned long long, value)
EMU_ATOMIC(atomicExch, float, value)
#define EMU_ORDERED(T) \
    EMU_ATOMIC(atomicMin, T, value < old ? value : old) \
    EMU_ATOMIC(atomicMax, T, value > old ? value : old)
EMU_ORDERED(int)
EMU_ORDERED(unsigned)
EMU_ORDERED(long long)
EMU_ORDERED(unsigned long long)
#undef EMU_ORDERED
#define EMU_BITS(T) \
    EMU_ATOMIC(atomicAnd, T, old & value) \
    EMU_ATOMIC(atomicOr, T, old | value) \
    EMU_ATOMIC(atomicXor, T, old ^ value)
EMU_BITS(int)
EMU_BITS(unsigned)
EMU_BITS(unsigned long long)
#undef EMU_BITS
EMU_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
EMU_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)

#define EMU_CAS(T) \
    inline T atomicCAS(T* p, T compare, T value, EmuPlace place = EmuPlace::here()) { \
        return emu_atomic(p, [=](T old) -> T { return old == compare ? value : old; }, place); \
    }
EMU_CAS(int)
EMU_CAS(unsigned)
EMU_CAS(unsigned long long)
EMU_CAS(unsigned short)
#undef EMU_CAS
