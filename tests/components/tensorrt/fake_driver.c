/* Stands for the NVIDIA driver's libcuda.so.1 and libnvidia-ml.so.1: one GPU, whose memory
   is the host's. The environment says which: FAKE_CAPABILITY such as 89, FAKE_GPUS.
   FAKE_LISTED says which processes NVML lists: "own" this one among others, "others" those
   alone, as in a container, and "hidden" this one without its memory. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

int cuInit(unsigned flags) { return flags ? 1 : number("FAKE_INIT", 0); }
int cuGetErrorString(int code, const char **text) {
    *text = code == 2 ? "out of memory" : "an error of the fake driver";
    return 0;
}
int cuDeviceGetCount(int *count) { *count = number("FAKE_GPUS", 1); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 7; return 0; }
int cuDeviceGetName(char *name, int room, int device) {
    strncpy(name, device == 7 ? "NVIDIA L4" : "another", room);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = number("FAKE_CAPABILITY", 89);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1;
    return device == 7 ? 0 : 101;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = (void *)0x7fff00001111;
    return device == 7 ? 0 : 101;
}
int cuDevicePrimaryCtxRelease_v2(int device) { return device == 7 ? 0 : 101; }
int cuCtxSetCurrent(void *context) { return context == (void *)0x7fff00001111 ? 0 : 201; }
int cuStreamCreate(void **stream, unsigned flags) {
    *stream = (void *)0x7fff00002222;
    return flags == 1 ? 0 : 1;
}
static int is_stream(void *stream) { return stream == (void *)0x7fff00002222 ? 0 : 400; }
int cuStreamSynchronize(void *stream) { return is_stream(stream); }
int cuStreamDestroy_v2(void *stream) { return is_stream(stream); }
uint64_t fake_allocated = 0;
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (size > ((size_t)1 << 33)) return 2;
    uint64_t *block = malloc(size + 16);
    *block = size;
    fake_allocated += size;
    *address = (uint64_t)block + 16;
    return 0;
}
int cuMemFree_v2(uint64_t address) {
    uint64_t *block = (uint64_t *)(address - 16);
    fake_allocated -= *block;
    free(block);
    return 0;
}
int cuDeviceGetPCIBusId(char *text, int room, int device) {
    strncpy(text, "0000:01:00.0", room);
    return device == 7 ? 0 : 101;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
    memcpy((void *)to, from, size);
    return is_stream(stream);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    memcpy(to, (void *)from, size);
    return is_stream(stream);
}
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *version, unsigned room) {
    strncpy(version, "580.82.07", room);
    return 0;
}

/* Other processes have 1,000,000 bytes, a context of CUDA 200,000. */
static uint64_t allocated(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    uint64_t *count = driver ? dlsym(driver, "fake_allocated") : 0;
    return count ? *count : 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *name, void **device) {
    *device = (void *)0x7fff00003333;
    return strcmp(name, "0000:01:00.0") ? 6 : 0;
}
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    if (getenv("FAKE_NO_MEMORY")) return 3;
    memory->total = 24000000000ull;
    memory->used = 1000000 + (allocated() ? 200000 + allocated() : 0);
    memory->free = memory->total - memory->used;
    return device == (void *)0x7fff00003333 ? 0 : 2;
}
struct process { unsigned pid; unsigned long long used; unsigned gpu, compute; };
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *list) {
    const char *listed = getenv("FAKE_LISTED");
    unsigned room = *count, others = 100, own = listed && strcmp(listed, "others");
    *count = listed ? others + own : 0;
    if (*count > room) return 7;
    for (unsigned at = 0; at < *count; at++)
        list[at] = (struct process){1000000 + at, 10000, -1, -1};
    if (own) {
        list[others].pid = getpid();
        list[others].used = strcmp(listed, "hidden") ? 200000 + allocated() : ~0ull;
    }
    return device == (void *)0x7fff00003333 ? 0 : 2;
}
