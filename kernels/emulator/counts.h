// counts.h - what the counting mode adds up: memory traffic, bank conflicts, active lanes.
//
// A counted kernel has a call before each access to memory (as in the checked mode) and one at the
// start of each run of instructions without a branch (-fsanitize-coverage=trace-pc). A GPU does an
// instruction for all lanes of a warp at once; here the lanes run one after another, so what they
// do is put together again: the n-th time that a lane comes to a place since its whole warp last
// met is one step with the n-th time of the other lanes.
#pragma once
#include <algorithm>
#include <unordered_map>

#include "scheduler.h"

namespace emu {

enum Counted : uint64_t { STEPS, GLOBAL_READ, GLOBAL_WRITE, GLOBAL_ATOMIC,
                          SHARED_READ, SHARED_WRITE, SHARED_ATOMIC, PRODUCT };
constexpr size_t SECTOR = 32;           // bytes of memory that are fetched together
constexpr unsigned BANKS = 32;          // of shared memory, four bytes wide
constexpr size_t MOST_PENDING = size_t(2) << 20;    // steps of a warp between two meetings

// What one place in the code did; read by counts.py. Of `bytes` each lane has its own; `used` counts
// one that several lanes want in a step once.
struct SiteCounts {
    uintptr_t code;                     // an address after the call, or 0 where file and line say it
    const char* file;
    uint64_t line, kind;
    uint64_t steps, lanes, bytes, used, sectors, wavefronts, ideal_wavefronts;
    uint64_t flops;                     // of products on the tensor cores
};

struct Step {                           // of one warp, at one place
    unsigned lanes;                     // a bit for each that took part
    uint16_t size[32];                  // bytes a lane: an asynchronous copy may end early
    uintptr_t address[32];
    unsigned largest() const { return *std::max_element(size, size + 32); }
};

struct Site {
    SiteCounts sum;
    unsigned seen[32];                  // how often each lane was here since the warp met
    std::vector<Step> steps;            // since then; none where no memory is touched
};

struct Counter {
    std::unordered_map<uint64_t, size_t> places;    // by the code's address and the kind
    std::vector<Site> sites;
    std::vector<size_t> pending;        // the sites with a lane in `seen`
    size_t n_steps = 0;                 // of all of them
    std::map<uintptr_t, std::vector<uint8_t>> touched;      // array -> sectors read 1, written 2
    uint64_t first_reads = 0, first_writes = 0;     // sectors, each once a launch
    uint64_t block = 0, block_time = 0;
    unsigned meetings = 0;
    int warp = -1;
    std::vector<SiteCounts> result;
    bool running = false;               // a library that is loaded runs code of its own before

    void start() { *this = Counter(), running = true; }

    // The warp that runs has met, or is another one: what is pending is complete.
    void look(const Worker& w) {
        int now = w.thread / 32;
        unsigned met = w.warps[now].meetings;
        if (now == warp && block == w.block_number && block_time == w.block_time &&
            meetings == met)
            return;
        settle();
        warp = now, block = w.block_number, block_time = w.block_time, meetings = met;
    }
    Site& at(uintptr_t code, EmuPlace place, Counted kind) {
        uint64_t key = code ? code : reinterpret_cast<uintptr_t>(place.file) + unsigned(place.line);
        auto found = places.emplace(key * 8 + kind, sites.size());
        if (found.second) {
            sites.emplace_back();
            Site& site = sites.back();
            site.sum.code = code, site.sum.file = place.file;
            site.sum.line = uint64_t(place.line), site.sum.kind = kind;
        }
        size_t number = found.first->second;
        Site& site = sites[number];
        if (std::all_of(site.seen, site.seen + 32, [](unsigned n) { return n == 0; }))
            pending.push_back(number);
        return site;
    }
    void visit(const Worker& w, uintptr_t code) {
        look(w);
        at(code, {nullptr, 0}, STEPS).seen[w.thread & 31]++;
    }
    bool access(const Worker& w, uintptr_t code, EmuPlace place, Counted kind, uintptr_t address,
                size_t size) {          // false: too much is pending
        look(w);
        Site& site = at(code, place, kind);
        int lane = w.thread & 31;
        unsigned n = site.seen[lane]++;
        if (n == site.steps.size()) {
            if (++n_steps > MOST_PENDING) return false;
            site.steps.push_back({0, {}, {}});
        }
        Step& step = site.steps[n];
        step.lanes |= 1u << lane, step.size[lane] = uint16_t(std::min(size, size_t(UINT16_MAX)));
        step.address[lane] = address;
        return true;
    }
    // A lane's share of a product that its warp does on the tensor cores.
    void product(const Worker& w, EmuPlace place, unsigned flops) {
        look(w);
        Site& site = at(0, place, PRODUCT);
        site.seen[w.thread & 31]++, site.sum.flops += flops;
    }
    void settle() {
        for (size_t number : pending) {
            Site& site = sites[number];
            SiteCounts& sum = site.sum;
            // In step n are the lanes that were here more than n times.
            sum.steps += *std::max_element(site.seen, site.seen + 32);
            for (unsigned& n : site.seen) sum.lanes += n, n = 0;
            for (const Step& step : site.steps) {
                if (sum.kind < SHARED_READ) count_sectors(sum, step);
                else count_banks(sum, step);    // of products there are no steps
            }
            site.steps.clear();
        }
        pending.clear();
        n_steps = 0;
    }

    // Distinct sectors and bytes, over the lanes by address.
    void count_sectors(SiteCounts& sum, const Step& step) {
        std::pair<uintptr_t, unsigned> wanted[32];      // address, bytes
        uintptr_t done = 0, last_sector = 0;
        int n = 0;
        for (int lane = 0; lane < 32; lane++)
            if (step.lanes >> lane & 1) wanted[n++] = {step.address[lane], step.size[lane]};
        std::sort(wanted, wanted + n);
        for (int i = 0; i < n; i++) {
            uintptr_t end = wanted[i].first + wanted[i].second;
            uintptr_t start = std::max(wanted[i].first, done);
            sum.bytes += wanted[i].second;
            if (start >= end) continue;
            sum.used += end - start, done = end;
            for (uintptr_t s = start / SECTOR; s <= (end - 1) / SECTOR; s++) {
                if (s == last_sector) continue;
                last_sector = s, sum.sectors++;
                touch(s, sum.kind);
            }
        }
    }
    void touch(uintptr_t sector, uint64_t kind) {   // for the traffic that no cache can save
        Array* array = array_at(sector * SECTOR);
        if (!array) array = array_at(sector * SECTOR + SECTOR - 1);
        if (!array) return;
        std::vector<uint8_t>& marks = touched[array->low];
        if (marks.empty()) marks.resize(array->high / SECTOR - array->low / SECTOR + 1);
        uint8_t& mark = marks[sector - array->low / SECTOR];
        if (kind != GLOBAL_WRITE && !mark) first_reads++;
        if (kind != GLOBAL_READ && !(mark & 2)) first_writes++;
        mark |= kind == GLOBAL_READ ? 1 : 2;
    }
    // Shared memory serves 128 bytes at a time: all lanes at once with up to 4 bytes each, half of
    // them with 8, a quarter with 16. What is in the same bank, but another word, takes turns; an
    // atomic operation takes turns on the same word, too.
    static void count_banks(SiteCounts& sum, const Step& step) {
        int at_once = step.largest() <= 4 ? 32 : step.largest() <= 8 ? 16 : 8;
        bool atomic = sum.kind == SHARED_ATOMIC;
        for (int first = 0; first < 32; first += at_once) {
            uintptr_t words[32 * 4];
            int n = 0;
            for (int lane = first; lane < first + at_once; lane++) {
                if (!(step.lanes >> lane & 1)) continue;
                uintptr_t a = step.address[lane], end = a + std::min<unsigned>(step.size[lane], 16);
                for (uintptr_t word = a / 4; word * 4 < end && n < 32 * 4; word++) words[n++] = word;
                sum.bytes += step.size[lane];
            }
            if (!n) continue;
            std::sort(words, words + n);
            unsigned turns[BANKS] = {};
            for (int i = 0; i < n; i++)
                if (!i || words[i] != words[i - 1] || atomic) turns[words[i] % BANKS]++;
            sum.wavefronts += *std::max_element(turns, turns + BANKS), sum.ideal_wavefronts++;
        }
    }
};

inline Counter& counter() {             // one: the counting mode has one worker
    static Counter all;
    return all;
}

}  // namespace emu
