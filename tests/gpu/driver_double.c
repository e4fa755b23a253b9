// driver_double.c - a stand-in for NVIDIA's driver library, libcuda.so.1. For tests only.
//
// It lets kernels/cuda.py run through the real PyCUDA where there is no GPU. Memory is the
// emulator's, a "cubin" names a library that the emulator has built (driver_double.py makes both),
// and a launch runs there: so numbers are right or wrong, and what PyCUDA hands on is checked as a
// driver does. It shows nothing about a GPU.
//
// DOUBLE_RUNTIME  the emulator's runtime library
// DOUBLE_MEMORY   bytes of memory that the GPU has (default: 1 GiB)
// DOUBLE_CHECKED  set: kernels run in the emulator's checked mode
// DOUBLE_FAIL     a function that fails, and with which error: "cuInit:100"
// DOUBLE_LOG      a file for one line at exit: what is left in use, and how contexts were used
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
       INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
       NOT_SUPPORTED = 801 };
enum { MOST = 1 << 16, DEPTH = 16, KERNELS = 512, PARAMETERS = 64 };

typedef struct { uintptr_t address; size_t bytes; } Block;
typedef struct {
    char name[128];
    void* entry;
    size_t argument_bytes;
    int parameters;
    size_t places[PARAMETERS], sizes[PARAMETERS];
} Function;
typedef struct { int n; Function functions[KERNELS]; } Module;
typedef struct {                // cuda.h: CUDA_KERNEL_NODE_PARAMS_v2
    Function* function;
    unsigned grid[3], block[3], shared;
    void **parameters, **extra;
    void *kernel, *context;
} KernelNode;
typedef struct {                // cuda.h: CUDA_MEMCPY3D_v2
    struct {
        size_t x, y, z, lod;
        int memory;
        const void* host;
        uintptr_t device;
        void *array, *reserved;
        size_t pitch, height;
    } from, to;
    size_t width, height, depth;
} CopyNode;
typedef struct {
    int is_kernel;
    KernelNode kernel;          // whose arguments are in `bytes`
    char* bytes;
    size_t n_bytes;
    CopyNode copy;
} Node;
typedef struct { int n; Node* nodes[MOST]; } Graph;

static Block blocks[MOST];
static size_t n_blocks, bytes_used, bytes_most;
static int started, sticky, retained;
static long pushed, popped, launched, allocated, graphs_made, graphs_left, graph_launches, updates;
static _Thread_local void* stack[DEPTH];
static _Thread_local int depth;
static char primary[1];         // its address is the primary context

static void* (*emu_malloc)(size_t, int);
static void (*emu_free)(void*);
static void (*emu_write)(void*, const void*, size_t);
static void (*emu_copy)(void*, const void*, size_t);
static const char* (*emu_message)(void);
typedef struct {                // kernels/emulator/runtime.cpp has the same
    unsigned grid[3], block[3];
    uint64_t seed;
    unsigned shared, order, checked, workers;
} Options;
static int (*emu_launch)(void*, const char*, size_t, const Options*);

static int told_to_fail(const char* function) {
    const char* fail = getenv("DOUBLE_FAIL");
    size_t n = strlen(function);
    return fail && !strncmp(fail, function, n) && fail[n] == ':' ? atoi(fail + n + 1) : OK;
}

// What every call does first: an error that it was told of, no initialisation, no context in this
// thread, or what an earlier kernel did.
#define BEGIN(needs_context)                                        \
    do {                                                            \
        int code = told_to_fail(__func__);                          \
        if (code) return code;                                      \
        if (!started) return NOT_INITIALIZED;                       \
        if (needs_context && !depth) return INVALID_CONTEXT;        \
        if (needs_context && sticky) return sticky;                 \
    } while (0)

static int is_checked(void) { return getenv("DOUBLE_CHECKED") != NULL; }

static Block* block_of(uintptr_t address, size_t bytes) {
    for (size_t i = 0; i < n_blocks; i++)
        if (address >= blocks[i].address && address + bytes <= blocks[i].address + blocks[i].bytes)
            return &blocks[i];
    return NULL;
}

// ---- the device ----

int cuInit(unsigned flags) {
    int code = told_to_fail(__func__);
    if (code) return code;
    void* lib = dlopen(getenv("DOUBLE_RUNTIME"), RTLD_NOW | RTLD_GLOBAL);
    if (!lib) { fprintf(stderr, "driver_double: %s\n", dlerror()); return 999; }
    *(void**)&emu_malloc = dlsym(lib, "emu_malloc");
    *(void**)&emu_free = dlsym(lib, "emu_free");
    *(void**)&emu_write = dlsym(lib, "emu_write");
    *(void**)&emu_copy = dlsym(lib, "emu_copy");
    *(void**)&emu_message = dlsym(lib, "emu_message");
    *(void**)&emu_launch = dlsym(lib, "emu_launch");
    started = 1;
    return OK;
}
int cuDriverGetVersion(int* version) { *version = 13000; return OK; }
int cuDeviceGetCount(int* count) { BEGIN(0); *count = 1; return OK; }
int cuDeviceGet(int* device, int ordinal) { BEGIN(0); *device = ordinal; return ordinal ? 101 : OK; }
int cuDeviceGetName(char* name, int n, int device) {
    BEGIN(0);
    snprintf(name, n, "test double, no GPU");
    return OK;
}
int cuDeviceComputeCapability(int* major, int* minor, int device) {
    BEGIN(0);
    *major = 9, *minor = 0;
    return OK;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) { BEGIN(0); *value = 1; return OK; }
static size_t memory(void) {
    const char* text = getenv("DOUBLE_MEMORY");
    return text ? strtoull(text, NULL, 10) : (size_t)1 << 30;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { BEGIN(0); *bytes = memory(); return OK; }
int cuGetErrorString(int error, const char** text) {
    switch (error) {        // the driver's own words
        case OK: *text = "no error"; break;
        case INVALID_VALUE: *text = "invalid argument"; break;
        case OUT_OF_MEMORY: *text = "out of memory"; break;
        case NOT_INITIALIZED: *text = "initialization error"; break;
        case NO_DEVICE: *text = "no CUDA-capable device is detected"; break;
        case 101: *text = "invalid device ordinal"; break;
        case INVALID_IMAGE: *text = "device kernel image is invalid"; break;
        case INVALID_CONTEXT: *text = "invalid device context"; break;
        case NOT_FOUND: *text = "named symbol not found"; break;
        case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
        case 701: *text = "too many resources requested for launch"; break;
        case 803: *text = "system has unsupported display driver / cuda driver combination"; break;
        default: *text = "unknown error";
    }
    return OK;
}
int cuGetErrorName(int error, const char** text) {
    *text = error == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_SOME_OTHER";
    return OK;
}

// ---- the context ----

int cuDevicePrimaryCtxRetain(void** context, int device) {
    BEGIN(0);
    retained++;
    *context = primary;
    return OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return OK; }
int cuCtxPushCurrent_v2(void* context) {
    BEGIN(0);
    if (depth == DEPTH) return INVALID_VALUE;
    stack[depth++] = context, pushed++;
    return OK;
}
int cuCtxPopCurrent_v2(void** context) {
    if (!depth) return INVALID_CONTEXT;
    *context = stack[--depth], popped++;
    return OK;
}
int cuCtxGetDevice(int* device) { BEGIN(1); *device = 0; return OK; }
int cuCtxSynchronize(void) { BEGIN(1); return OK; }

// ---- memory ----

int cuMemAlloc_v2(uintptr_t* address, size_t bytes) {
    BEGIN(1);
    if (!bytes) return INVALID_VALUE;
    if (n_blocks == MOST || bytes_used + bytes > memory()) return OUT_OF_MEMORY;
    *address = (uintptr_t)emu_malloc(bytes, is_checked());
    if (!*address) return OUT_OF_MEMORY;
    blocks[n_blocks++] = (Block){*address, bytes};
    bytes_used += bytes, allocated++;
    if (bytes_used > bytes_most) bytes_most = bytes_used;
    return OK;
}
int cuMemFree_v2(uintptr_t address) {
    BEGIN(1);
    Block* block = block_of(address, 0);
    if (!block || block->address != address) return INVALID_VALUE;
    emu_free((void*)address);
    bytes_used -= block->bytes;
    *block = blocks[--n_blocks];
    return OK;
}
int cuMemGetInfo_v2(size_t* free, size_t* total) {
    BEGIN(1);
    *total = memory(), *free = *total - bytes_used;
    return OK;
}
int cuMemcpyHtoD_v2(uintptr_t to, const void* from, size_t bytes) {
    BEGIN(1);
    if (!block_of(to, bytes)) return INVALID_VALUE;
    emu_write((void*)to, from, bytes);
    return OK;
}
int cuMemcpyDtoH_v2(void* to, uintptr_t from, size_t bytes) {
    BEGIN(1);
    if (!block_of(from, bytes)) return INVALID_VALUE;
    memcpy(to, (void*)from, bytes);
    return OK;
}
int cuMemcpyDtoD_v2(uintptr_t to, uintptr_t from, size_t bytes) {
    BEGIN(1);
    if (!block_of(to, bytes) || !block_of(from, bytes)) return INVALID_VALUE;
    emu_copy((void*)to, (const void*)from, bytes);
    return OK;
}

// ---- kernels ----

// An image is the text "\x7f" "ELF" "\n" LIBRARY "\n", then for each kernel a line "NAME BYTES N",
// and on it the place and the size of each of its N parameters.
int cuModuleLoadDataEx(Module** module, const char* image, unsigned n, int* options, void** values) {
    BEGIN(1);
    char library[4096], name[128];
    size_t bytes;
    int used = 0;
    for (unsigned i = 0; i < n; i++) {          // PyCUDA reads the logs and their sizes
        if (options[i] == 3 || options[i] == 5) *(char*)values[i] = 0;
        if (options[i] == 4 || options[i] == 6) values[i] = NULL;
    }
    if (strncmp(image, "\x7f" "ELF\n", 5) || sscanf(image + 5, "%4095[^\n]%n", library, &used) != 1)
        return INVALID_IMAGE;
    void* lib = dlopen(library, RTLD_NOW);
    if (!lib) { fprintf(stderr, "driver_double: %s\n", dlerror()); return INVALID_IMAGE; }
    Module* made = *module = calloc(1, sizeof **module);
    const char* rest = image + 5 + used;
    while (made->n < KERNELS && sscanf(rest, " %127s %zu%n", name, &bytes, &used) == 2) {
        char symbol[160];
        snprintf(symbol, sizeof symbol, "emu_kernel_%s", name);
        Function* f = &made->functions[made->n++];
        strcpy(f->name, name);
        f->entry = dlsym(lib, symbol), f->argument_bytes = bytes;
        rest += used;
        if (sscanf(rest, "%d%n", &f->parameters, &used) != 1 || f->parameters > PARAMETERS)
            return INVALID_IMAGE;
        rest += used;
        for (int i = 0; i < f->parameters; i++, rest += used)
            if (sscanf(rest, "%zu %zu%n", &f->places[i], &f->sizes[i], &used) != 2)
                return INVALID_IMAGE;
    }
    return OK;
}
int cuModuleLoadData(Module** module, const char* image) {
    return cuModuleLoadDataEx(module, image, 0, NULL, NULL);
}
int cuModuleUnload(Module* module) { free(module); return OK; }
int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    BEGIN(1);
    for (int i = 0; i < module->n; i++)
        if (!strcmp(module->functions[i].name, name)) {
            *function = &module->functions[i];
            return OK;
        }
    return NOT_FOUND;
}
int cuFuncGetAttribute(int* value, int attribute, Function* function) {
    BEGIN(1);
    *value = attribute == 0 ? 1024 : attribute == 4 ? 32 : 0;   // threads a block, registers
    return OK;
}
static int is_refused(const KernelNode* p) {
    const unsigned *g = p->grid, *b = p->block;
    return !p->function->entry || (uint64_t)b[0] * b[1] * b[2] > 1024 || !g[0] || !g[1] || !g[2] ||
           !b[0] || !b[1] || !b[2] || g[0] > 2147483647u || g[1] > 65535 || g[2] > 65535 ||
           b[2] > 64 || p->shared > 48 << 10;
}
static void run(const KernelNode* p, const char* buffer, size_t bytes) {
    Options options = {{p->grid[0], p->grid[1], p->grid[2]}, {p->block[0], p->block[1], p->block[2]},
                       0, p->shared, 0, is_checked(), 1};
    launched++;
    if (emu_launch(p->function->entry, buffer, bytes, &options)) {
        fprintf(stderr, "driver_double: %s: %s\n", p->function->name, emu_message());
        sticky = ILLEGAL_ADDRESS;               // told of by the calls after this one
    }
}
int cuLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* stream, void** parameters, void** extra) {
    BEGIN(1);
    KernelNode p = {f, {gx, gy, gz}, {bx, by, bz}, shared};
    const char* buffer = NULL;
    size_t bytes = 0;
    for (void** e = extra; *e; e += 2) {        // 1: the buffer, 2: its size, 0: the end
        if (*e == (void*)1) buffer = e[1];
        if (*e == (void*)2) bytes = *(size_t*)e[1];
    }
    if (parameters || bytes != f->argument_bytes || is_refused(&p)) return INVALID_VALUE;
    run(&p, buffer, bytes);
    return OK;
}

// ---- graphs: chains of kernels and copies on the device ----

int cuCtxGetCurrent(void** context) {
    if (!started) return NOT_INITIALIZED;
    *context = depth ? stack[depth - 1] : NULL;
    return OK;
}
int cuGraphCreate(Graph** graph, unsigned flags) {
    BEGIN(1);
    if (flags) return INVALID_VALUE;
    *graph = calloc(1, sizeof **graph);
    graphs_left++;
    return OK;
}
static int add(Node** made, Graph* graph, Node* const* before, size_t n, Node node) {
    if (n != (graph->n > 0) || (n && *before != graph->nodes[graph->n - 1]) || graph->n == MOST)
        return INVALID_VALUE;                   // not a chain: it would run in another order
    *made = graph->nodes[graph->n++] = malloc(sizeof node);
    **made = node;
    return OK;
}
static int set_kernel(Node* node, const KernelNode* p) {
    const Function* f = p->function;
    if (!p->parameters || p->extra || p->kernel || p->context || is_refused(p))
        return INVALID_VALUE;
    if (!node->bytes) node->bytes = calloc(1, f->argument_bytes + 1);
    for (int i = 0; i < f->parameters; i++)
        memcpy(node->bytes + f->places[i], p->parameters[i], f->sizes[i]);
    node->is_kernel = 1, node->kernel = *p, node->n_bytes = f->argument_bytes;
    return OK;
}
int cuGraphAddKernelNode_v2(Node** made, Graph* graph, Node* const* before, size_t n,
                            const KernelNode* p) {
    BEGIN(1);
    Node node = {1};
    int code = set_kernel(&node, p);
    return code ? code : add(made, graph, before, n, node);
}
int cuGraphAddMemcpyNode(Node** made, Graph* graph, Node* const* before, size_t n,
                         const CopyNode* p, void* context) {
    BEGIN(1);
    if (context != primary || p->from.memory != 2 || p->to.memory != 2 || p->height != 1 ||
        p->depth != 1 || p->from.pitch < p->width || p->to.pitch < p->width ||
        p->from.reserved || p->to.reserved || !block_of(p->from.device, p->width) ||
        !block_of(p->to.device, p->width))
        return INVALID_VALUE;
    return add(made, graph, before, n, (Node){.copy = *p});
}
// What can be run is a copy of the graph; node i of one is node i of the other.
typedef struct { Graph* graph; Graph nodes; } Executable;
static Node copied(const Node* node) {
    Node copy = *node;
    if (node->is_kernel) copy.bytes = memcpy(malloc(node->n_bytes + 1), node->bytes, node->n_bytes);
    return copy;
}
int cuGraphInstantiateWithFlags(Executable** made, Graph* graph, unsigned long long flags) {
    BEGIN(1);
    if (flags) return INVALID_VALUE;
    *made = calloc(1, sizeof **made);
    (*made)->graph = graph, (*made)->nodes.n = graph->n;
    for (int i = 0; i < graph->n; i++) {
        (*made)->nodes.nodes[i] = malloc(sizeof(Node));
        *(*made)->nodes.nodes[i] = copied(graph->nodes[i]);
    }
    graphs_made++, graphs_left++;
    return OK;
}
int cuGraphExecKernelNodeSetParams_v2(Executable* executable, Node* node, const KernelNode* p) {
    BEGIN(1);
    for (int i = 0; i < executable->graph->n; i++) {
        Node* own = executable->nodes.nodes[i];
        if (executable->graph->nodes[i] != node) continue;
        if (!own->is_kernel || own->kernel.function != p->function) return INVALID_VALUE;
        updates++;
        return set_kernel(own, p);
    }
    return INVALID_VALUE;
}
int cuGraphLaunch(Executable* executable, void* stream) {
    BEGIN(1);
    graph_launches++;
    for (int i = 0; i < executable->nodes.n && !sticky; i++) {
        Node* node = executable->nodes.nodes[i];
        const CopyNode* c = &node->copy;
        if (node->is_kernel) run(&node->kernel, node->bytes, node->n_bytes);
        else emu_copy((void*)c->to.device, (void*)c->from.device, c->width);
    }
    return OK;
}
static void free_nodes(Graph* graph) {
    for (int i = 0; i < graph->n; i++) free(graph->nodes[i]->bytes), free(graph->nodes[i]);
}
int cuGraphExecDestroy(Executable* executable) {
    free_nodes(&executable->nodes);
    free(executable);
    graphs_left--;
    return OK;
}
int cuGraphDestroy(Graph* graph) {
    free_nodes(graph);
    free(graph);
    graphs_left--;
    return OK;
}

__attribute__((destructor)) static void report(void) {
    const char* path = getenv("DOUBLE_LOG");
    FILE* file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    fprintf(file, "pushed %ld popped %ld allocated %ld left %zu most %zu launched %ld graphs %ld "
            "graphs_left %ld graph_launches %ld updates %ld\n", pushed, popped, allocated,
            bytes_used, bytes_most, launched, graphs_made, graphs_left, graph_launches, updates);
    fclose(file);
}

// ---- events ----

// As of a GPU that is always behind: an event has not come before somebody waits for it.
typedef struct { struct timespec at; int waited; } Event;

int cuEventCreate(Event** event, unsigned flags) {
    BEGIN(1);
    *event = calloc(1, sizeof **event);
    return OK;
}
int cuEventDestroy_v2(Event* event) { free(event); return OK; }
int cuEventRecord(Event* event, void* stream) {
    BEGIN(1);
    event->waited = 0;
    clock_gettime(CLOCK_MONOTONIC, &event->at);
    return OK;
}
int cuEventSynchronize(Event* event) { BEGIN(1); event->waited = 1; return OK; }
int cuEventQuery(Event* event) { BEGIN(1); return event->waited ? OK : NOT_READY; }
int cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end) {
    BEGIN(1);
    if (!end->waited) return NOT_READY;
    *milliseconds = (end->at.tv_sec - start->at.tv_sec) * 1e3 +
                    (end->at.tv_nsec - start->at.tv_nsec) / 1e6;
    return OK;
}

// ---- what PyCUDA links to, and we never call ----

#define MISSING(name) int name(void) { return NOT_SUPPORTED; }
MISSING(cuArray3DCreate_v2) MISSING(cuArray3DGetDescriptor_v2) MISSING(cuArrayCreate_v2)
MISSING(cuArrayDestroy) MISSING(cuArrayGetDescriptor_v2) MISSING(cuCtxAttach)
MISSING(cuCtxCreate_v4) MISSING(cuCtxDetach) MISSING(cuCtxDisablePeerAccess)
MISSING(cuCtxEnablePeerAccess) MISSING(cuCtxGetApiVersion) MISSING(cuCtxGetCacheConfig)
MISSING(cuCtxGetLimit) MISSING(cuCtxGetSharedMemConfig) MISSING(cuCtxSetCacheConfig)
MISSING(cuCtxSetLimit) MISSING(cuCtxSetSharedMemConfig) MISSING(cuDeviceCanAccessPeer)
MISSING(cuDeviceGetByPCIBusId) MISSING(cuDeviceGetPCIBusId) 
MISSING(cuFuncSetAttribute)
MISSING(cuFuncSetBlockShape) MISSING(cuFuncSetCacheConfig) MISSING(cuFuncSetSharedSize)
MISSING(cuIpcCloseMemHandle) MISSING(cuIpcGetEventHandle) MISSING(cuIpcGetMemHandle)
MISSING(cuIpcOpenEventHandle) MISSING(cuIpcOpenMemHandle_v2) MISSING(cuLaunch) MISSING(cuLaunchGrid)
MISSING(cuLaunchGridAsync) MISSING(cuLinkAddData_v2) MISSING(cuLinkAddFile_v2)
MISSING(cuLinkComplete) MISSING(cuLinkCreate_v2) MISSING(cuLinkDestroy) MISSING(cuMemAllocManaged)
MISSING(cuMemAllocPitch_v2) MISSING(cuMemFreeHost) MISSING(cuMemGetAddressRange_v2)
MISSING(cuMemHostAlloc) MISSING(cuMemHostGetDevicePointer_v2) MISSING(cuMemHostGetFlags)
MISSING(cuMemHostRegister_v2) MISSING(cuMemHostUnregister) MISSING(cuMemcpy2DAsync_v2)
MISSING(cuMemcpy2DUnaligned_v2) MISSING(cuMemcpy2D_v2) MISSING(cuMemcpy3DAsync_v2)
MISSING(cuMemcpy3DPeer) MISSING(cuMemcpy3DPeerAsync) MISSING(cuMemcpy3D_v2) MISSING(cuMemcpyAtoA_v2)
MISSING(cuMemcpyAtoD_v2) MISSING(cuMemcpyAtoH_v2) MISSING(cuMemcpyDtoA_v2)
MISSING(cuMemcpyDtoDAsync_v2) MISSING(cuMemcpyDtoHAsync_v2) MISSING(cuMemcpyHtoA_v2)
MISSING(cuMemcpyHtoDAsync_v2) MISSING(cuMemcpyPeer) MISSING(cuMemcpyPeerAsync)
MISSING(cuMemsetD16Async) MISSING(cuMemsetD16_v2) MISSING(cuMemsetD2D16Async)
MISSING(cuMemsetD2D16_v2) MISSING(cuMemsetD2D32Async) MISSING(cuMemsetD2D32_v2)
MISSING(cuMemsetD2D8Async) MISSING(cuMemsetD2D8_v2) MISSING(cuMemsetD32Async)
MISSING(cuMemsetD32_v2) MISSING(cuMemsetD8Async) MISSING(cuMemsetD8_v2)
MISSING(cuModuleGetGlobal_v2) MISSING(cuModuleGetSurfRef) MISSING(cuModuleGetTexRef)
MISSING(cuModuleLoad) MISSING(cuParamSetSize) MISSING(cuParamSetTexRef) MISSING(cuParamSetf)
MISSING(cuParamSeti) MISSING(cuParamSetv) MISSING(cuProfilerInitialize) MISSING(cuProfilerStart)
MISSING(cuProfilerStop) MISSING(cuStreamAttachMemAsync) MISSING(cuStreamCreate)
MISSING(cuStreamDestroy_v2) MISSING(cuStreamQuery) MISSING(cuStreamSynchronize)
MISSING(cuStreamWaitEvent) MISSING(cuSurfRefGetArray) MISSING(cuSurfRefSetArray)
MISSING(cuTexRefCreate) MISSING(cuTexRefDestroy) MISSING(cuTexRefGetAddressMode)
MISSING(cuTexRefGetAddress_v2) MISSING(cuTexRefGetArray) MISSING(cuTexRefGetFilterMode)
MISSING(cuTexRefGetFlags) MISSING(cuTexRefGetFormat) MISSING(cuTexRefSetAddress2D_v3)
MISSING(cuTexRefSetAddressMode) MISSING(cuTexRefSetAddress_v2) MISSING(cuTexRefSetArray)
MISSING(cuTexRefSetFilterMode) MISSING(cuTexRefSetFlags) MISSING(cuTexRefSetFormat)
