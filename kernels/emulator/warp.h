// warp.h - shuffles, votes, matches and reductions of a warp; part of cuda_emulator.h.
//
// Each lane brings a small struct on its own stack; the last lane to arrive fills in everybody's
// result. A value from a lane that takes no part is undefined on a GPU: 0xff in each byte here,
// which as float is NaN.
#pragma once

inline int emu_lane() { return emu_worker()->thread & 31; }

// The threads of a warp may run on together or not. Here each runs alone, which is one of the
// outcomes that a program has to be ready for.
inline unsigned __activemask() { return 1u << emu_lane(); }

inline void emu_nothing(void**, unsigned) {}
inline void __syncwarp(unsigned mask = 0xffffffffu, EmuPlace place = EmuPlace::here()) {
    emu_warp(mask, nullptr, emu_nothing, "__syncwarp", place);
}

// ---- shuffles ----

template <class T> struct EmuShuffle { T value, result; int source; };

template <class T> EMU_UNCHECKED void emu_shuffle_all(void** lanes, unsigned alive) {
    for (int i = 0; i < 32; i++) {
        if (!(alive >> i & 1)) continue;
        auto& mine = *static_cast<EmuShuffle<T>*>(lanes[i]);
        if (alive >> mine.source & 1)
            mine.result = static_cast<EmuShuffle<T>*>(lanes[mine.source])->value;
        else
            memset(static_cast<void*>(&mine.result), 0xff, sizeof(T));
    }
}
template <class T>
inline T emu_shuffle(unsigned mask, T value, int source, const char* what, EmuPlace place) {
    EmuShuffle<T> mine{value, value, source};
    emu_warp(mask, &mine, emu_shuffle_all<T>, what, place);
    return mine.result;
}
// The source lane of each kind: one outside the group of `width` lanes is oneself.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                     EmuPlace place = EmuPlace::here()) {
    int first = emu_lane() & ~(width - 1);
    return emu_shuffle(mask, value, first + (source & (width - 1)), "__shfl_sync", place);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                         EmuPlace place = EmuPlace::here()) {
    // Of the groups before its own a lane may read, as on a GPU; not of those after it.
    int lane = emu_lane(), source = (lane ^ bits) & 31, end = (lane & ~(width - 1)) + width;
    return emu_shuffle(mask, value, source < end ? source : lane, "__shfl_xor_sync", place);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                          EmuPlace place = EmuPlace::here()) {
    int lane = emu_lane(), end = (lane & ~(width - 1)) + width;
    bool inside = by < unsigned(end - lane);
    return emu_shuffle(mask, value, inside ? lane + int(by) : lane, "__shfl_down_sync", place);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                        EmuPlace place = EmuPlace::here()) {
    int lane = emu_lane(), first = lane & ~(width - 1);
    bool inside = by <= unsigned(lane - first);
    return emu_shuffle(mask, value, inside ? lane - int(by) : lane, "__shfl_up_sync", place);
}

// ---- votes ----

struct EmuVote { bool predicate; unsigned ballot, alive; };

EMU_UNCHECKED inline void emu_vote_all(void** lanes, unsigned alive) {
    unsigned ballot = 0;
    for (int i = 0; i < 32; i++)
        if (alive >> i & 1 && static_cast<EmuVote*>(lanes[i])->predicate) ballot |= 1u << i;
    for (int i = 0; i < 32; i++) {
        if (!(alive >> i & 1)) continue;
        static_cast<EmuVote*>(lanes[i])->ballot = ballot;
        static_cast<EmuVote*>(lanes[i])->alive = alive;
    }
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EmuPlace place = EmuPlace::here()) {
    EmuVote mine{predicate != 0, 0, 0};
    emu_warp(mask, &mine, emu_vote_all, "__ballot_sync", place);
    return mine.ballot;
}
inline int __any_sync(unsigned mask, int predicate, EmuPlace place = EmuPlace::here()) {
    EmuVote mine{predicate != 0, 0, 0};
    emu_warp(mask, &mine, emu_vote_all, "__any_sync", place);
    return mine.ballot != 0;
}
inline int __all_sync(unsigned mask, int predicate, EmuPlace place = EmuPlace::here()) {
    EmuVote mine{predicate != 0, 0, 0};
    emu_warp(mask, &mine, emu_vote_all, "__all_sync", place);
    return mine.ballot == mine.alive;
}

// ---- matches: which lanes brought the same bits ----

struct EmuMatch { uint64_t bits; unsigned same, alive; };

EMU_UNCHECKED inline void emu_match_all(void** lanes, unsigned alive) {
    for (int i = 0; i < 32; i++) {
        if (!(alive >> i & 1)) continue;
        auto& mine = *static_cast<EmuMatch*>(lanes[i]);
        mine.same = 0, mine.alive = alive;
        for (int j = 0; j < 32; j++)
            if (alive >> j & 1 && static_cast<EmuMatch*>(lanes[j])->bits == mine.bits)
                mine.same |= 1u << j;
    }
}
template <class T>
inline EmuMatch emu_match(unsigned mask, T value, const char* what, EmuPlace place) {
    EmuMatch mine{0, 0, 0};
    memcpy(&mine.bits, &value, sizeof(T));
    emu_warp(mask, &mine, emu_match_all, what, place);
    return mine;
}
#define EMU_MATCH(T) \
    inline unsigned __match_any_sync(unsigned mask, T value, EmuPlace place = EmuPlace::here()) { \
        return emu_match(mask, value, "__match_any_sync", place).same; \
    } \
    inline unsigned __match_all_sync(unsigned mask, T value, int* all, \
                                     EmuPlace place = EmuPlace::here()) { \
        EmuMatch mine = emu_match(mask, value, "__match_all_sync", place); \
        *all = mine.same == mine.alive; \
        return *all ? mine.alive : 0; \
    }
EMU_MATCH(int)
EMU_MATCH(unsigned)
EMU_MATCH(long long)
EMU_MATCH(unsigned long long)
EMU_MATCH(float)
EMU_MATCH(double)
#undef EMU_MATCH

// ---- reductions of integers (sm_80 and later) ----

template <class T> struct EmuReduce { T value, result; };

#define EMU_REDUCE(name, T, expression) \
    EMU_UNCHECKED inline void emu_reduce_##name##_all(void** lanes, unsigned alive, T) { \
        bool first = true; \
        T a = 0; \
        for (int i = 0; i < 32; i++) { \
            if (!(alive >> i & 1)) continue; \
            T b = static_cast<EmuReduce<T>*>(lanes[i])->value; \
            a = first ? b : T(expression); \
            first = false; \
        } \
        for (int i = 0; i < 32; i++) \
            if (alive >> i & 1) static_cast<EmuReduce<T>*>(lanes[i])->result = a; \
    } \
    inline T __reduce_##name##_sync(unsigned mask, T value, EmuPlace place = EmuPlace::here()) { \
        EmuReduce<T> mine{value, value}; \
        emu_warp(mask, &mine, [](void** lanes, unsigned alive) { \
            emu_reduce_##name##_all(lanes, alive, T()); }, "__reduce_" #name "_sync", place); \
        return mine.result; \
    }
EMU_REDUCE(add, unsigned, a + b)
EMU_REDUCE(add, int, unsigned(a) + unsigned(b))
EMU_REDUCE(min, unsigned, a < b ? a : b)
EMU_REDUCE(min, int, a < b ? a : b)
EMU_REDUCE(max, unsigned, a > b ? a : b)
EMU_REDUCE(max, int, a > b ? a : b)
EMU_REDUCE(and, unsigned, a & b)
EMU_REDUCE(or, unsigned, a | b)
EMU_REDUCE(xor, unsigned, a ^ b)
#undef EMU_REDUCE
