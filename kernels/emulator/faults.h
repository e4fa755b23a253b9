// faults.h - signals during a launch: what a fault of the CPU means, and Ctrl-C.
//
// Our handlers stay between launches, because to set and take them back costs more than a small
// launch does. With no launch under way they hand each signal on to the handler before them.
#pragma once
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

#include <initializer_list>

#include "scheduler.h"

namespace emu {

inline thread_local Worker* current = nullptr;      // the worker that this system thread is
inline Launch* under_way = nullptr;                 // the launch
inline pthread_t threads[EMU_MAX_WORKERS];          // its system threads; the first launched it
inline volatile bool interrupting;                  // Ctrl-C ends the launch
inline volatile bool patient;                       // not the first one: that has its own handler
inline struct sigaction before_us[65];              // by the number of the signal

inline uintptr_t code_of(void* context) {           // the address of the instruction, plus 1
    const auto& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__APPLE__) && defined(__x86_64__)
    return uintptr_t(machine->__ss.__rip) + 1;
#elif defined(__APPLE__)
    return uintptr_t(machine->__ss.__pc) + 1;
#elif defined(__x86_64__)
    return uintptr_t(machine.gregs[REG_RIP]) + 1;
#else
    return uintptr_t(machine.pc) + 1;
#endif
}

inline void on_fault(int signal, siginfo_t* info, void* context) {
    if (!current) {                     // not ours: the instruction runs again, and faults again
        sigaction(signal, &before_us[signal], nullptr);
        return;
    }
    Worker& w = *current;
    Worker::Who who = w.who();
    w.signal = signal;
    uintptr_t code = code_of(context), address = reinterpret_cast<uintptr_t>(info->si_addr);
    if (signal == SIGILL || signal == SIGTRAP)      // clang++ puts a trap there
        w.fail_at(code, "out of bounds: %s comes to what the compiler knows to be undefined, as a "
                  "null pointer's element is", who.text);
    if (signal == SIGFPE) w.fail_at(code, "integer division by zero: %s", who.text);
#ifdef __linux__
    if (info->si_code == SI_KERNEL || signal == SIGBUS)
        w.fail_at(code, "misaligned: %s reads or writes a vector at an address that is not a "
                  "multiple of its size, or at none at all", who.text);
#endif
    uintptr_t own_stack = reinterpret_cast<uintptr_t>(w.stack_end(w.threads[w.thread].stack));
    if (address - (own_stack - STACK - GUARD) < GUARD)
        w.fail_at(code, "stack overflow: %s has more than %zu bytes of local variables", who.text,
                  STACK);
    if (Array* array = array_at(address))
        w.fail_at(code, "out of bounds: %s touches byte %td of an array of %zu bytes", who.text,
                  ptrdiff_t(address - array->low), array->bytes());
    w.fail_at(code, "out of bounds: %s touches address 0x%zx, which is in no array", who.text,
              size_t(address));
}

inline void interrupt_others() {
    interrupting = true;
    __atomic_store_n(&under_way->stop, true, __ATOMIC_RELAXED);
    for (int i = 1; i < under_way->workers; i++) pthread_kill(threads[i], SIGINT);
}

inline void hand_on(int signal, siginfo_t* info, void* context) {
    const struct sigaction& before = before_us[signal];
    if (before.sa_flags & SA_SIGINFO) before.sa_sigaction(signal, info, context);
    else before.sa_handler(signal);
}

// Ctrl-C ends the launch, wherever the kernel stands; Python's own handler would only set a flag for
// after it. Which is what a program wants that means to stop after a whole step: where it has a
// handler the first Ctrl-C is for that, and the second one ends the launch. The signal may reach any
// thread: it is sent to the one that launched, and by that one to the others.
inline void on_interrupt(int signal, siginfo_t* info, void* context) {
    if (under_way && patient) {
        patient = false;
        hand_on(signal, info, context);
        return;
    }
    bool first = under_way && pthread_equal(pthread_self(), threads[0]);
    if (current && current->busy) {
        current->interrupted = true;
    } else if (current && (first || interrupting)) {
        current->interrupted = true, current->signal = signal;
        current->fail_at(code_of(context), "interrupted: %s", current->who().text);
    } else if (first) {
        interrupt_others();             // it has done its blocks, and waits for them
    } else if (under_way) {
        if (!interrupting) pthread_kill(threads[0], signal);
    } else {
        hand_on(signal, info, context);
    }
}

typedef void (*Handler)(int, siginfo_t*, void*);

inline void install(int signal, Handler handler) {
    struct sigaction now;
    sigaction(signal, nullptr, &now);
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == handler) return;
    // Where Ctrl-C ends the process or is ignored, it shall go on to do so.
    if (signal == SIGINT && (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN)) return;
    before_us[signal] = now;
    struct sigaction action{};
    action.sa_sigaction = handler, action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(signal, &action, nullptr);
}

// For the time of a launch.
struct Launching {
    Launching(Launch& launch, bool first_is_handed_on) {
        static bool first = true;
        install(SIGSEGV, on_fault);
        install(SIGINT, on_interrupt);
        if (first) {
            for (int other : {SIGBUS, SIGFPE, SIGILL, SIGTRAP}) install(other, on_fault);
        }
        first = false;
        threads[0] = pthread_self(), interrupting = false, patient = first_is_handed_on;
        under_way = &launch;
    }
    ~Launching() { under_way = nullptr; }
};

// A stack of its own for the handlers, because the running one may be full. It stays with the
// system's thread.
inline void prepare_handler_stack() {
    constexpr size_t size = 64 << 10;
    struct Stack {
        char* memory = nullptr;
        ~Stack() {
            stack_t none{};
            none.ss_flags = SS_DISABLE, none.ss_size = size;
            sigaltstack(&none, nullptr);
            if (memory) munmap(memory, size);
        }
    };
    static thread_local Stack stack;
    if (stack.memory) return;
    stack.memory = reserve(size, PROT_READ | PROT_WRITE);
    stack_t ours{};
    ours.ss_sp = stack.memory, ours.ss_size = size;
    if (stack.memory) sigaltstack(&ours, nullptr);
}

// After a handler was left by a jump its signal is still blocked.
inline void unblock(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace emu
