/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The repository as a source. */
#include "restore/source-private.h"

#include <errno.h>
#include <stdlib.h>

#include "basic/error.h"
#include "repo/config-format.h"
#include "repo/pack.h"
#include "repo/repository.h"

#define CODEC_LEVEL 1 /* they only ever open */

struct repo_source {
    struct repository *repo;
    struct frame_cache *frames;
};

struct repo_state {
    struct repository *repo;
    struct frame_cache *frames;
    struct frame_codec *codec;
};

static int repo_open(const char *argument, const struct source_options *options, void **ret_shared)
{
    struct repo_source *source = malloc(sizeof(*source));

    (void)argument;
    if (!source)
        return -ENOMEM;
    *source = (struct repo_source){.repo = options->repo, .frames = options->frames};
    *ret_shared = source;
    return 0;
}

static int repo_attach(void *shared, void **ret_state)
{
    const struct repo_source *source = shared;
    struct repo_state *state = malloc(sizeof(*state));

    if (!state)
        return -ENOMEM;
    state->repo = source->repo;
    state->frames = source->frames;
    int r = frame_codec_new(source->repo->keyring, CODEC_LEVEL, &state->codec);
    if (r < 0) {
        free(state);
        return r;
    }
    *ret_state = state;
    return 0;
}

static void repo_detach(void *data)
{
    struct repo_state *state = data;

    frame_codec_free(state->codec);
    free(state);
}

static int repo_read(void *data, const struct chunk_ref *ref, uint32_t offset, void *to,
                     uint32_t len)
{
    const struct repo_state *state = data;
    uint64_t size_bytes;

    int r = frame_cache_read(state->frames, state->codec, ref, offset, to, len);
    if (r >= 0 || error_class(r) != ENODATA)
        return r;
    /* One pack is missing, or all of the repository is away. */
    int away = backend_stat(state->repo->backend, CONFIG_OBJECT_NAME, &size_bytes);
    return away < 0 ? error_prefix(away, "the repository cannot be reached") : r;
}

const struct source_ops source_repo_ops = {
    .open = repo_open,
    .close = free,
    .attach = repo_attach,
    .detach = repo_detach,
    .read = repo_read,
};
