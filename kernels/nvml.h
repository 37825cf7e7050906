/* The NVIDIA Management Library, loaded at run time and optional everywhere: clocks, what holds them down, energy. Only
 * the files of the CUDA backend include this. */
#ifndef KS_NVML_H
#define KS_NVML_H

#include "device.h"

/* The driver's version, "580.65.06"; "" if there is no NVML. Static storage. */
const char *ks_nvml_driver(void);

/* What NVML knows of the GPU at this PCI bus id ("0000:3b:00.0"); what it does not know stays as it is in *state. */
void ks_nvml_read(const char *bus_id, ks_device_state *state);

#endif
