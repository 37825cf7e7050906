/* NVML by dlopen. It comes with the driver and not with the toolkit, so the few declarations needed of nvml.h are here,
 * which also lets us build without that header. GPUs are told by PCI bus id: NVML numbers them its own way and does not
 * know CUDA_VISIBLE_DEVICES. */
#include "nvml.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { NVML_SUCCESS = 0, NVML_CLOCK_SM = 1 };

typedef void *nvml_device;

static struct {
    bool ready;
    char driver[48];
    int (*device_by_bus_id)(const char *bus_id, nvml_device *device);
    int (*clock)(nvml_device device, int type, unsigned *mhz);
    int (*throttle)(nvml_device device, unsigned long long *reasons);
    int (*energy)(nvml_device device, unsigned long long *millijoules);
} nvml;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* dlsym gives an object pointer; POSIX promises that it can be one to a function. */
static bool find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static void load(void)
{
    int (*init)(void), (*driver_version)(char *, unsigned);
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    if (!find(library, "nvmlInit_v2", &init) ||
        !find(library, "nvmlDeviceGetHandleByPciBusId_v2", &nvml.device_by_bus_id) || init() != NVML_SUCCESS)
        return;
    find(library, "nvmlDeviceGetClockInfo", &nvml.clock);
    find(library, "nvmlDeviceGetTotalEnergyConsumption", &nvml.energy);
    if (!find(library, "nvmlDeviceGetCurrentClocksEventReasons", &nvml.throttle)) /* its name since driver 535 */
        find(library, "nvmlDeviceGetCurrentClocksThrottleReasons", &nvml.throttle);
    if (!find(library, "nvmlSystemGetDriverVersion", &driver_version) ||
        driver_version(nvml.driver, sizeof nvml.driver) != NVML_SUCCESS)
        nvml.driver[0] = '\0';
    nvml.ready = true;
}

const char *ks_nvml_driver(void)
{
    pthread_once(&once, load);
    return nvml.driver;
}

/* Idle, and clocks that somebody set on purpose, are no throttling. */
static void throttle_words(unsigned long long reasons, char *text, size_t size)
{
    static const struct {
        unsigned long long bits;
        const char *word;
    } words[] = {{0x04, "power cap"}, {0x80, "power brake"}, {0x20 | 0x40, "heat"}, {0x08, "hardware slowdown"}};
    size_t length = 0;
    text[0] = '\0';
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if ((reasons & words[i].bits) && length < size)
            length += (size_t)snprintf(text + length, size - length, "%s%s", length ? ", " : "", words[i].word);
}

void ks_nvml_read(const char *bus_id, ks_device_state *state)
{
    nvml_device device;
    unsigned mhz;
    unsigned long long reasons, millijoules;
    pthread_once(&once, load);
    if (!nvml.ready || nvml.device_by_bus_id(bus_id, &device) != NVML_SUCCESS) return;
    if (nvml.clock && nvml.clock(device, NVML_CLOCK_SM, &mhz) == NVML_SUCCESS) state->clock_hz = mhz * 1e6;
    if (nvml.energy && nvml.energy(device, &millijoules) == NVML_SUCCESS) state->energy_j = (double)millijoules / 1e3;
    if (nvml.throttle && nvml.throttle(device, &reasons) == NVML_SUCCESS)
        throttle_words(reasons, state->throttle, sizeof state->throttle);
}
