/* Where the store is and whether a file there can be one at all; no SQL. For db/, and for what else makes files. */
#ifndef KS_PLACE_H
#define KS_PLACE_H

#include "store.h"

/* Looks at path before SQLite does: a directory, FIFO or device in the store's place is refused without being
 * opened. For writing missing directories are made (0777 less the umask) and a missing file is fine.
 * *network says that the file lies, or will lie, on a network file system. KS_ERR_STORE names path and reason. */
ks_status ks_place_check(const char *path, ks_store_mode mode, bool *network);

/* Whether path, or a directory on the way to it, is a link that another user made in a directory where everybody may, such as
 * /tmp: whoever writes to it writes to what that user chose. (Linux can refuse to follow these itself, but need not, and a rename
 * goes around it.) */
bool ks_place_is_planted(const char *path);

/* Whether statfs's f_type is a network (or FUSE: who knows what is behind) file system's. */
bool ks_place_type_is_network(uint64_t type);

#endif
