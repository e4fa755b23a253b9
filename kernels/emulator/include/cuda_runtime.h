// cuda_runtime.h - nothing that a kernel needs is not in cuda_emulator.h already.
#pragma once
