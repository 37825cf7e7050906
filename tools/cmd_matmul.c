/* ksauto matmul: the product on the user's own arrays, so that anybody with NumPy can hold the library against einsum.
 *
 * Shapes are read generously (flat, two-dimensional, four-dimensional) because people have their arrays in all of these,
 * and each has one reading only; what fits none is refused with the shapes that would. Nothing is written unless the
 * whole product was made: the output takes its name at the end. */
#include "cli.h"

#include "kernel.h"
#include "memory.h"
#include "npy.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char synopsis[] =
    "ksauto [--db FILE] matmul --pattern A,B,C,D --x X.npy --k K.npy --out Y.npy [OPTION]...";
static const char about[] =
    "Multiplies NumPy arrays: Y = X * transpose(K), K Kronecker-sparse of pattern A,B,C,D, in float32, float16 or\n"
    "float64 (X and K alike).\n"
    "  X  batch first: (batch, A*C*D) or (batch, A, C, D); batch last: (A*C*D, batch) or (A, C, D, batch); or flat\n"
    "  K  (A, B, C, D), or (A, D, B, C) with --weights block; or flat in that order\n"
    "  Y  as many dimensions as X, with B in the place of C";

/* The pattern by itself, before any batch is known: the products of sizes below must not overflow. */
static ks_status check_pattern(ks_problem *problem)
{
    problem->batch = 1;
    return ks_problem_check(problem);
}

static bool is_shape(const npy_array *array, int rank, const int64_t *shape)
{
    return array->rank == rank && memcmp(array->shape, shape, (size_t)rank * sizeof *shape) == 0;
}

/* Reads the batch off X's shape; false if the shape does not fit the pattern. */
static bool batch_of(const npy_array *x, const ks_problem *p, int64_t *batch)
{
    bool last = p->layout == KS_BATCH_LAST;
    int64_t features = p->a * p->c * p->d;
    if (x->rank == 1) {
        *batch = x->count / features;
        return *batch >= 1 && x->count % features == 0;
    }
    if (x->rank != 2 && x->rank != 4) return false;
    *batch = x->shape[last ? x->rank - 1 : 0];
    const int64_t *rest = x->shape + (last ? 0 : 1);
    bool fits = x->rank == 2 ? rest[0] == features : rest[0] == p->a && rest[1] == p->c && rest[2] == p->d;
    return fits && *batch >= 1;
}

static int check_x(const npy_array *x, const char *path, ks_problem *p)
{
    char found[160], valid[256];
    if (batch_of(x, p, &p->batch)) return CLI_GO_ON;
    int64_t features = p->a * p->c * p->d;
    npy_shape_text(x->rank, x->shape, found, sizeof found);
    if (p->layout == KS_BATCH_FIRST)
        snprintf(valid, sizeof valid, "(batch, %" PRId64 ") or (batch, %" PRId64 ", %" PRId64 ", %" PRId64 ")",
                 features, p->a, p->c, p->d);
    else
        snprintf(valid, sizeof valid, "(%" PRId64 ", batch) or (%" PRId64 ", %" PRId64 ", %" PRId64 ", batch)",
                 features, p->a, p->c, p->d);
    return cli_misuse("matmul",
                      "--x '%s': shape %s does not fit pattern %" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64
                      " with layout %s; valid: %s, or flat with a multiple of %" PRId64 " values; batch >= 1",
                      path, found, p->a, p->b, p->c, p->d, ks_layout_name(p->layout), valid, features);
}

static int check_k(const npy_array *k, const char *path, const ks_problem *p, bool block)
{
    const int64_t abcd[] = {p->a, p->b, p->c, p->d}, adbc[] = {p->a, p->d, p->b, p->c}, flat[] = {ks_k_count(p)};
    char found[160], valid[160];
    if (k->type != p->type)
        return cli_misuse("matmul", "--k '%s': is %s, but X is %s; valid: the same dtype", path,
                          ks_type_name(k->type), ks_type_name(p->type));
    if (is_shape(k, 4, block ? adbc : abcd) || is_shape(k, 1, flat)) return CLI_GO_ON;
    npy_shape_text(k->rank, k->shape, found, sizeof found);
    npy_shape_text(4, block ? adbc : abcd, valid, sizeof valid);
    return cli_misuse("matmul", "--k '%s': shape %s does not fit --weights %s; valid: %s or (%" PRId64 ",)%s", path,
                      found, block ? "block" : "abcd", valid, flat[0],
                      is_shape(k, 4, block ? abcd : adbc)
                          ? block ? "; this is the shape of --weights abcd" : "; this is the shape of --weights block"
                          : "");
}

/* Y's shape: X's rank, with b where c was. */
static void shape_of_y(const npy_array *x, const ks_problem *p, int64_t shape[4])
{
    bool last = p->layout == KS_BATCH_LAST;
    int at = last ? 0 : 1;
    if (x->rank == 1) {
        shape[0] = ks_y_count(p);
        return;
    }
    shape[last ? x->rank - 1 : 0] = p->batch;
    if (x->rank == 2)
        shape[at] = p->a * p->b * p->d;
    else
        shape[at] = p->a, shape[at + 1] = p->b, shape[at + 2] = p->d;
}

/* auto, fused, bmm or a kernel's name. */
static int check_path(const char *path)
{
    char names[1024] = "auto, fused, bmm";
    if (strcmp(path, "auto") == 0 || strcmp(path, "fused") == 0 || strcmp(path, "bmm") == 0 || ks_kernel_find(path))
        return CLI_GO_ON;
    for (const ks_kernel *const *kernel = ks_kernels(); *kernel; kernel++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, ", %s", (*kernel)->name);
    }
    return cli_misuse("matmul", "--path '%s': no such path or kernel; valid: %s", path, names);
}

/* Reading failures are the input's fault, hence a misuse, unless memory ran out. */
static int read_input(const char *option, const char *path, npy_array *array)
{
    int code = cli_readable("matmul", option, path);
    if (code != CLI_GO_ON) return code;
    ks_status status = npy_read_file(path, array);
    if (status == KS_OK) return CLI_GO_ON;
    if (status == KS_ERR_MEMORY) return cli_status(status);
    return cli_misuse("matmul", "%s: %s", option, ks_status_message(status));
}

static int print_json(const ks_problem *problem, const char *path, const char *out, int rank, const int64_t *shape)
{
    cJSON *object = cli_result_json();
    cJSON_AddItemToObject(object, "problem", cli_problem_json(problem));
    cJSON_AddStringToObject(object, "path", path);
    cJSON_AddStringToObject(object, "out", out);
    cJSON *sizes = cJSON_AddArrayToObject(object, "shape");
    for (int i = 0; i < rank; i++) cJSON_AddItemToArray(sizes, cJSON_CreateNumber((double)shape[i]));
    return cli_print_json(object);
}

/* The device that the context multiplies on; KS_ERR_NO_DATA if it is not here. A part of a name will do for ks_open, but
 * several GPUs may have one name, so what was asked for comes first. */
static ks_status device_of(ks_context *ctx, const ks_problem *p, const char *wanted, ks_device *device)
{
    ks_advice advice;
    ks_status s = ks_device_find(wanted, device);
    if (s == KS_ERR_NO_DATA && ks_advise(ctx, p, &advice) == KS_OK) s = ks_device_find(advice.device, device);
    return s;
}

/* The product of arrays in host memory: taken to the device and back, if that has memory of its own. */
static ks_status multiply(ks_context *ctx, const ks_problem *p, const char *wanted, const char *path, const void *x,
                          const void *k, void *y)
{
    const size_t item = ks_type_bytes(p->type), x_bytes = (size_t)ks_x_count(p) * item;
    const size_t k_bytes = (size_t)ks_k_count(p) * item, y_bytes = (size_t)ks_y_count(p) * item;
    ks_device device;
    void *there[3] = {NULL};
    ks_status s = device_of(ctx, p, wanted, &device);
    if (s == KS_ERR_NO_DATA || (s == KS_OK && device.backend == KS_CPU))
        return ks_matmul(ctx, p, path, x, k, y, NULL); /* which refuses a device that is not here */
    if (s == KS_OK) s = ks_memory_alloc(&device, x_bytes, &there[0]);
    if (s == KS_OK) s = ks_memory_alloc(&device, k_bytes, &there[1]);
    if (s == KS_OK) s = ks_memory_alloc(&device, y_bytes, &there[2]);
    if (s == KS_OK) s = ks_memory_put(&device, there[0], x, x_bytes);
    if (s == KS_OK) s = ks_memory_put(&device, there[1], k, k_bytes);
    if (s == KS_OK) s = ks_matmul(ctx, p, path, there[0], there[1], there[2], NULL);
    if (s == KS_OK) s = ks_memory_get(&device, y, there[2], y_bytes);
    for (int i = 0; i < 3; i++) ks_memory_free(&device, there[i]);
    return s;
}

int cmd_matmul(cli *c, int argc, char **argv)
{
    ks_problem problem = {.layout = KS_BATCH_FIRST, .math = KS_MATH_F32};
    ks_options context = {0};
    const char *pattern = NULL, *x_path = NULL, *k_path = NULL, *out_path = NULL, *weights = "abcd", *path = "auto";
    const cli_option options[] = {
        {"pattern", CLI_TEXT, &pattern, "A,B,C,D", "K is (A*B*D) x (A*C*D)", true},
        {"x", CLI_TEXT, &x_path, "X.npy", "the input", true},
        {"k", CLI_TEXT, &k_path, "K.npy", "the weights", true},
        {"out", CLI_TEXT, &out_path, "Y.npy", "the result; replaced once it is complete", true},
        {"weights", CLI_TEXT, &weights, "ORDER", "abcd (default) or block: how K is stored", false},
        {"layout", CLI_LAYOUT, &problem.layout, "LAYOUT", "first (default): batch first; last: batch last", false},
        {"path", CLI_TEXT, &path, "PATH", "auto (default), fused, bmm, or a kernel's name", false},
        {"device", CLI_TEXT, &context.device, "DEVICE", "cpu (default), or cuda:N", false},
        {0},
    };
    npy_array x = {0}, k = {0};
    output out = {0};
    ks_context *ctx = NULL;
    void *blocks = NULL, *y = NULL;
    int64_t y_shape[4];
    ks_status status;
    int code = cli_parse(c, "matmul", synopsis, about, options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;
    bool block = strcmp(weights, "block") == 0;
    if (!block && strcmp(weights, "abcd") != 0)
        return cli_misuse("matmul", "--weights '%s': valid: abcd, block", weights);

    code = cli_pattern("matmul", pattern, &problem);
    if (code == CLI_GO_ON) code = check_path(path);
    if (code != CLI_GO_ON) return code;
    status = check_pattern(&problem);
    if (status != KS_OK) return cli_status(status);

    code = read_input("--x", x_path, &x);
    if (code != CLI_GO_ON) goto done;
    problem.type = x.type;
    code = read_input("--k", k_path, &k);
    if (code == CLI_GO_ON) code = check_x(&x, x_path, &problem);
    if (code == CLI_GO_ON) code = check_k(&k, k_path, &problem, block);
    if (code != CLI_GO_ON) goto done;
    status = ks_problem_check(&problem);
    if (status != KS_OK) {
        code = cli_status(status);
        goto done;
    }
    code = cli_open(c, "matmul", &context, &ctx);
    if (code != CLI_GO_ON) goto done;

    /* The output is opened before the work: a directory that cannot be written to is better known now. */
    status = output_open(&out, out_path);
    size_t item = ks_type_bytes(problem.type), y_bytes = (size_t)ks_y_count(&problem) * item;
    if (status == KS_OK) {
        y = malloc(y_bytes);
        if (!block) blocks = malloc((size_t)ks_k_count(&problem) * item);
        if (!y || (!block && !blocks)) {
            code = cli_fail("not enough memory for Y's %zu bytes", y_bytes);
            goto done;
        }
    }
    if (status == KS_OK && !block) status = ks_weights_to_block(&problem, k.data, blocks);
    if (status == KS_OK) status = multiply(ctx, &problem, context.device, path, x.data, block ? k.data : blocks, y);
    shape_of_y(&x, &problem, y_shape);
    if (status == KS_OK) status = npy_write(&out, problem.type, x.rank, y_shape, y);
    if (status == KS_OK) status = output_commit(&out);
    code = status != KS_OK ? cli_status(status) : CLI_DONE;
    if (status == KS_OK && c->json) code = print_json(&problem, path, out_path, x.rank, y_shape);

done:
    output_discard(&out);
    ks_close(ctx);
    free(blocks);
    free(y);
    npy_free(&x);
    npy_free(&k);
    return code;
}
