// common.cuh - what the kernels share. `#include "common.cuh"` works in nvcc and in the emulator.
#pragma once

// The shape, or the strides in elements, of an array of up to 8 axes: a parameter by value, so that
// a launch needs no copy to the device. The host gives a tuple; a shorter one is padded with 0.
//
// A kernel that looks up an axis by a variable takes it as `const __grid_constant__ Dims shape`:
// then it is read where the launch put it, and not copied to each thread's own memory first.
struct Dims {
    long long n[8];
};

// Addresses or sizes of up to 64 arrays, for a kernel that works on many: passed like a Dims.
struct Table {
    long long n[64];
};

// Before a kernel's name: it is compiled for this architecture and later ones (80 is sm_80), and has
// no code for an older one, where the host refuses to launch it.
#define SINCE_SM(number)

// Before a pointer parameter's name: it may be null, and the host may give None for it.
#define OPTIONAL
