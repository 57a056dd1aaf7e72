/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How fast one core cuts, hashes, seals and opens: thread CPU time, the best of several rounds. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "basic/error.h"
#include "repo/chunker.h"
#include "repo/crypt.h"

#define DATA_LEN  ((size_t)16 << 20)
#define FRAME_LEN ((size_t)512 << 10)
#define ROUNDS    12

struct setting {
    struct keyring *keyring;
    uint64_t table[256];
    uint8_t *data;
    uint8_t *sealed; /* frames with overhead */
    uint8_t *opened;
};

static double cpu_seconds(void)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int run_gear(struct setting *s)
{
    struct chunker chunker;
    int r = chunker_init(&chunker, CHUNKER_GEAR, &chunker_params_default, s->table);
    for (size_t pos = 0; r == 0 && pos < DATA_LEN;)
        pos += chunker_next(&chunker, s->data + pos, DATA_LEN - pos, true);
    return r;
}

/* Without the part below the smallest size that needs no look. */
static int run_gear_scan(struct setting *s)
{
    const struct chunker_params params = {
        .min_bytes = 64, .normal_bytes = 16u << 20, .max_bytes = 16u << 20};
    struct chunker chunker;
    int r = chunker_init(&chunker, CHUNKER_GEAR, &params, s->table);
    for (size_t pos = 0; r == 0 && pos < DATA_LEN;)
        pos += chunker_next(&chunker, s->data + pos, DATA_LEN - pos, true);
    return r;
}

static int run_id(struct setting *s)
{
    struct chunk_id id;
    for (size_t pos = 0; pos < DATA_LEN; pos += FRAME_LEN / 2)
        chunk_id_compute(s->keyring, CHUNK_DATA, s->data + pos, FRAME_LEN / 2, &id);
    return 0;
}

static int run_seal(struct setting *s)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < DATA_LEN / FRAME_LEN; i++) {
        const struct iovec plain[] = {{.iov_base = s->data, .iov_len = 1},
                                      {.iov_base = s->data + i * FRAME_LEN, .iov_len = FRAME_LEN}};
        r = seal(s->keyring, SEAL_DATA_FRAME, "k", 1, plain, 2,
                 s->sealed + i * (FRAME_LEN + 1 + SEAL_OVERHEAD));
    }
    return r;
}

static int run_unseal(struct setting *s)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < DATA_LEN / FRAME_LEN; i++)
        r = unseal(s->keyring, SEAL_DATA_FRAME, "k", 1,
                   s->sealed + i * (FRAME_LEN + 1 + SEAL_OVERHEAD), FRAME_LEN + 1 + SEAL_OVERHEAD,
                   s->opened);
    return r;
}

static int run_seal_small(struct setting *s)
{
    const struct iovec plain = {.iov_base = s->data, .iov_len = 64};
    int r = 0;
    for (size_t i = 0; r == 0 && i < DATA_LEN / 4096; i++)
        r = seal(s->keyring, SEAL_DATA_FRAME, "k", 1, &plain, 1, s->sealed);
    return r;
}

static int run_sha256(struct setting *s)
{
    const struct iovec iov = {.iov_base = s->data, .iov_len = DATA_LEN};
    uint8_t digest[32];
    return sha256(&iov, 1, digest);
}

static int run_zeros(struct setting *s)
{
    static const uint8_t zeros[FRAME_LEN];
    for (size_t i = 0; i < DATA_LEN / FRAME_LEN; i++)
        s->opened[0] = (uint8_t)zero_prefix_len(zeros, FRAME_LEN);
    return 0;
}

static int measure(struct setting *s, const char *name, int (*run)(struct setting *))
{
    double best = 1e9;
    for (int i = 0; i < ROUNDS; i++) {
        double begin = cpu_seconds();
        int r = run(s);
        double spent = cpu_seconds() - begin;
        if (r < 0)
            return r;
        best = spent < best ? spent : best;
    }
    if (run == run_seal_small)
        printf("%-34s %8.0f ns each\n", name, best / (DATA_LEN / 4096.0) * 1e9);
    else
        printf("%-34s %8.2f GB/s\n", name, (double)DATA_LEN / best / 1e9);
    return 0;
}

static int run_all(struct setting *s)
{
    static const struct {
        const char *name;
        int (*run)(struct setting *);
    } all[] = {
        {"gear, default sizes", run_gear}, {"gear, every byte looked at", run_gear_scan},
        {"chunk id of 256 KiB", run_id},   {"seal 512 KiB", run_seal},
        {"open 512 KiB", run_unseal},      {"seal 64 bytes", run_seal_small},
        {"SHA-256", run_sha256},           {"looking for zeros", run_zeros},
    };
    int r = 0;
    for (size_t i = 0; r == 0 && i < ELEMENTSOF(all); i++)
        r = measure(s, all[i].name, all[i].run);
    return r;
}

int main(void)
{
    struct setting s = {
        .data = malloc(DATA_LEN),
        .sealed = malloc(DATA_LEN / FRAME_LEN * (FRAME_LEN + 1 + SEAL_OVERHEAD)),
        .opened = malloc(FRAME_LEN + 1),
    };
    uint64_t state = 1;

    int r = s.data && s.sealed && s.opened ? keyring_new_random(&s.keyring) : -ENOMEM;
    if (r == 0) {
        keyring_gear_table(s.keyring, s.table);
        for (size_t i = 0; i < DATA_LEN; i++) {
            state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
            s.data[i] = (uint8_t)(state >> 56);
        }
        r = run_all(&s);
        keyring_free(s.keyring);
    }
    free(s.data);
    free(s.sealed);
    free(s.opened);
    if (r < 0)
        (void)fprintf(stderr, "primitives: %s\n", error_text(r));
    return r < 0 ? 1 : 0;
}
