/* Energy by /sys/class/powercap: a directory a zone. intel-rapl:N is a package (AMD's are called so, too), with cores and caches
 * among what it counts; intel-rapl:N:M are parts of it, of which only memory ("dram") is not in the package's own counter.
 * "psys", the whole machine, holds packages that are counted already. Since Linux 5.10 only root may read them. */
#include "rapl.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The file's one number; false if there is none. */
static bool read_number(const char *path, uint64_t *value)
{
    FILE *f = fopen(path, "re");
    if (!f) return false;
    const bool good = fscanf(f, "%" SCNu64, value) == 1;
    fclose(f);
    return good;
}

static bool read_word(const char *path, char word[32])
{
    FILE *f = fopen(path, "re");
    if (!f) return false;
    const bool good = fscanf(f, "%31s", word) == 1;
    fclose(f);
    return good;
}

/* Whether a zone's energy counts: a package's, or memory's. */
static bool counts(const char *root, const char *entry)
{
    char path[KS_RAPL_PATH], name[32];
    int package, part, length = 0, longer = 0;
    if (sscanf(entry, "intel-rapl:%d%n:%d%n", &package, &length, &part, &longer) < 1) return false;
    if (entry[longer ? longer : length]) return false;
    if (snprintf(path, sizeof path, "%s/%s/name", root, entry) >= (int)sizeof path || !read_word(path, name))
        return false;
    return longer ? strcmp(name, "dram") == 0 : strncmp(name, "package", 7) == 0;
}

/* False if its counter cannot be read. */
static bool add_zone(ks_rapl *rapl, const char *root, const char *entry)
{
    char path[KS_RAPL_PATH];
    ks_rapl_zone *zone = &rapl->zones[rapl->count++];
    return snprintf(path, sizeof path, "%s/%s/max_energy_range_uj", root, entry) < (int)sizeof path &&
           read_number(path, &zone->range) && zone->range > 0 &&
           snprintf(zone->path, sizeof zone->path, "%s/%s/energy_uj", root, entry) < (int)sizeof zone->path &&
           read_number(zone->path, &zone->last) && zone->last <= zone->range;
}

void ks_rapl_open(ks_rapl *rapl, const char *root)
{
    bool good = true;
    rapl->count = 0, rapl->joules = 0;
    DIR *folder = opendir(root);
    if (!folder) return;
    for (struct dirent *entry; good && (entry = readdir(folder));)
        if (counts(root, entry->d_name)) good = rapl->count < KS_RAPL_ZONES && add_zone(rapl, root, entry->d_name);
    closedir(folder);
    if (!good) rapl->count = 0;
}

double ks_rapl_read(ks_rapl *rapl)
{
    for (ks_rapl_zone *zone = rapl->zones; zone < rapl->zones + rapl->count; zone++) {
        uint64_t now;
        if (!read_number(zone->path, &now) || now > zone->range) {
            rapl->count = 0;
            break;
        }
        rapl->joules += 1e-6 * (double)(now >= zone->last ? now - zone->last : zone->range - zone->last + now);
        zone->last = now;
    }
    return rapl->count ? rapl->joules : NAN;
}
