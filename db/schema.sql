-- The store's schema, version 1 (PRAGMA user_version). This text is linked into the library and run once, in the
-- transaction that creates a store. It is never edited after a release: a change is a further migration in store.c.
--
-- Times are seconds, energies joules, clocks hertz. Words (type, layout, math, family, status, objective) are those of
-- ksauto.h's *_name functions, so that a store can be read with the sqlite3 shell and survives renumbered enums.
-- No STRICT tables: SQLite before 3.37 could not open the file. Readers check every value all the same.

-- One row a device. Facts are 0 or '' and backend is NULL where a device is known by name alone (imported CSV).
CREATE TABLE devices (
    id                    INTEGER PRIMARY KEY,
    name                  TEXT    NOT NULL UNIQUE CHECK (name <> ''),
    backend               TEXT             CHECK (backend IN ('cpu', 'cuda')),
    ordinal               INTEGER NOT NULL DEFAULT 0,
    arch                  TEXT    NOT NULL DEFAULT '',
    units                 INTEGER NOT NULL DEFAULT 0,
    l1_bytes              INTEGER NOT NULL DEFAULT 0,
    l2_bytes              INTEGER NOT NULL DEFAULT 0,
    l3_bytes              INTEGER NOT NULL DEFAULT 0,
    memory_bytes          INTEGER NOT NULL DEFAULT 0,
    driver                TEXT    NOT NULL DEFAULT '',
    runtime               TEXT    NOT NULL DEFAULT '',
    blas                  TEXT    NOT NULL DEFAULT '',
    copy_bytes_per_s      REAL    NOT NULL DEFAULT 0 CHECK (copy_bytes_per_s >= 0),
    gemm_f32_flops_per_s  REAL    NOT NULL DEFAULT 0 CHECK (gemm_f32_flops_per_s >= 0),
    gemm_f16_flops_per_s  REAL    NOT NULL DEFAULT 0 CHECK (gemm_f16_flops_per_s >= 0),
    gemm_bf16_flops_per_s REAL    NOT NULL DEFAULT 0 CHECK (gemm_bf16_flops_per_s >= 0),
    gemm_f64_flops_per_s  REAL    NOT NULL DEFAULT 0 CHECK (gemm_f64_flops_per_s >= 0)
);

-- A kernel of another version is another kernel: its timings are not comparable.
CREATE TABLE kernels (
    id      INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL CHECK (name <> ''),
    version INTEGER NOT NULL CHECK (version >= 0),
    family  TEXT    NOT NULL,
    UNIQUE (name, version, family)
);

-- One row a measurement, in the order they were made. NULL in time_s, spread, energy_j: not measured.
CREATE TABLE measurements (
    id             INTEGER PRIMARY KEY,
    device_id      INTEGER NOT NULL REFERENCES devices (id),
    kernel_id      INTEGER NOT NULL REFERENCES kernels (id),
    a              INTEGER NOT NULL CHECK (a >= 1),
    b              INTEGER NOT NULL CHECK (b >= 1),
    c              INTEGER NOT NULL CHECK (c >= 1),
    d              INTEGER NOT NULL CHECK (d >= 1),
    batch          INTEGER NOT NULL CHECK (batch >= 1),
    type           TEXT    NOT NULL,
    layout         TEXT    NOT NULL,
    math           TEXT    NOT NULL,
    cache_state    TEXT    NOT NULL DEFAULT 'cold',
    status         TEXT    NOT NULL,
    reason         TEXT    NOT NULL DEFAULT '',
    time_s         REAL             CHECK (time_s > 0),   -- median of the samples
    spread         REAL             CHECK (spread >= 0),  -- half the interquartile range over the median
    energy_j       REAL             CHECK (energy_j >= 0),-- of one product
    clock_hz       REAL             CHECK (clock_hz >= 0),
    samples        INTEGER NOT NULL DEFAULT 0 CHECK (samples >= 0),
    sample_times_s BLOB,                                  -- samples x float64, little-endian, in seconds; or NULL
    measured_at_s  REAL    NOT NULL DEFAULT 0             -- seconds since 1970, UTC; 0: unknown
);

-- What makes two rows the same measurement: everything. Import and merge rely on it not to double rows. ifnull,
-- because SQL's NULLs are all different; -1 is no valid value of these columns. device_id comes first so that the
-- index also finds one device's rows.
CREATE UNIQUE INDEX measurements_identity ON measurements (
    device_id, kernel_id, a, b, c, d, batch, type, layout, math, cache_state, status, samples, measured_at_s,
    ifnull(time_s, -1), ifnull(energy_j, -1), ifnull(spread, -1), reason
);

-- One fitted model per device, type, layout and objective: the newest.
CREATE TABLE models (
    device_id   INTEGER NOT NULL REFERENCES devices (id),
    type        TEXT    NOT NULL,
    layout      TEXT    NOT NULL,
    objective   TEXT    NOT NULL,
    rows        INTEGER NOT NULL CHECK (rows >= 0), -- measurements it was fitted to
    cv_regret   REAL,                               -- cross-validated mean regret; NULL: unknown
    fitted_at_s REAL    NOT NULL,
    json        TEXT    NOT NULL,                   -- coefficients, as calib/model.c writes them
    PRIMARY KEY (device_id, type, layout, objective)
);
