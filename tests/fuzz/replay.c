/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs a fuzz target over files, or over all files of directories: the corpus as a regression test.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/cleanup.h"
#include "basic/durable.h"
#include "basic/error.h"

#define INPUT_BYTES_MAX ((size_t)16 * 1024 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static size_t inputs_run;

static int run_file(struct io *io, const char *name)
{
    CLEANUP_FREE void *data = NULL;
    size_t len;

    int r = durable_read(io, name, INPUT_BYTES_MAX, &data, &len);
    if (r < 0)
        return r;

    /* A copy of exactly len bytes, so that AddressSanitizer sees a read one byte too far. */
    CLEANUP_FREE uint8_t *exact = malloc(len > 0 ? len : 1);
    if (!exact)
        return -ENOMEM;
    memcpy(exact, data, len);
    (void)LLVMFuzzerTestOneInput(exact, len);
    inputs_run++;
    return 0;
}

static int on_name(const char *name, void *userdata)
{
    return name[0] == '.' ? 0 : run_file(userdata, name);
}

static int run_argument(const char *path)
{
    CLEANUP(io_freep) struct io *io = NULL;
    CLEANUP_FREE char *dir = NULL;
    struct stat st;

    if (stat(path, &st) < 0)
        return error_note_describe(-errno, "cannot examine '%s'", path);
    const char *slash = strrchr(path, '/');
    bool is_dir = S_ISDIR(st.st_mode);
    if (is_dir)
        dir = strdup(path);
    else
        dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    if (!dir)
        return -ENOMEM;
    int r = io_new_real(dir, &io);
    if (r < 0)
        return r;
    return is_dir ? io_list(io, "", on_name, io) : run_file(io, slash ? slash + 1 : path);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int r = run_argument(argv[i]);
        if (r < 0) {
            (void)fprintf(stderr, "%s\n", error_text(r));
            return EXIT_FAILURE;
        }
    }
    (void)printf("%zu inputs\n", inputs_run);
    return inputs_run > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
