/* Stands for the NVIDIA driver's libcuda.so.1 and libnvidia-ml.so.1: one GPU, whose memory
   is the host's. The environment says which: FAKE_CAPABILITY such as 89, FAKE_GPUS. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (size > ((size_t)1 << 33)) return 2;
    *address = (uint64_t)malloc(size);
    return 0;
}
int cuMemFree_v2(uint64_t address) { free((void *)address); return 0; }
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
