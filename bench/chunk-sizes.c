/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What chunk sizes, frame sizes and compression levels cost and save, over given files:
 *
 *     chunk-sizes [--levels 13] [--only TEXT] [--rounds N] PATH...
 *
 * Each line is one repository that could be made of the files.  The files are read in the order of
 * their paths, cut, named, deduplicated, gathered into frames, compressed and sealed as a backup
 * does it, in one thread; frames are written to an unlinked file, and then random 4 KiB of them are
 * read back as a demand read does it: one pread, open, decompress, verify the chunk.  Times are of
 * the thread's CPU.  "stored" counts what each chunk costs in pack directory, index and catalog
 * (36 + 49 + 50 bytes), each frame in its directory (8), and the seals.
 *
 * Levels are digits.  --only takes the layouts whose name has the text in it.  With several rounds
 * the least time of each kind counts, which is what to believe on a machine that has other work.
 */
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <zstd.h>

#include "basic/error.h"
#include "basic/vector.h"
#include "repo/chunker.h"
#include "repo/crypt.h"

#define READ_COUNT      2000u
#define READ_LEN        4096u
#define CHUNK_COST      (36u + 49u + 50u)
#define FRAME_COST      8u
#define FILE_LEN_MAX    ((off_t)1 << 30)
#define FRAME_LEN_LIMIT ((size_t)8 << 20)

struct layout {
    const char *name;
    struct chunker_params sizes;
    size_t frame_len; /* 0: one chunk a frame */
};

static const struct layout layouts[] = {
    {"512K/2M/8M, chunk = frame", {512u << 10, 2u << 20, 8u << 20}, 0},
    {"512K/1M/8M, chunk = frame", {512u << 10, 1u << 20, 8u << 20}, 0},
    {"256K/1M/4M, chunk = frame", {256u << 10, 1u << 20, 4u << 20}, 0},
    {"64K/256K/512K, chunk = frame", {64u << 10, 256u << 10, 512u << 10}, 0},
    {"64K/256K/512K in 512K", {64u << 10, 256u << 10, 512u << 10}, 512u << 10},
    {"64K/256K/512K in 1M", {64u << 10, 256u << 10, 512u << 10}, 1u << 20},
    {"32K/128K/512K, chunk = frame", {32u << 10, 128u << 10, 512u << 10}, 0},
    {"32K/128K/512K in 512K", {32u << 10, 128u << 10, 512u << 10}, 512u << 10},
    {"32K/128K/512K in 1M", {32u << 10, 128u << 10, 512u << 10}, 1u << 20},
    {"16K/64K/256K in 512K", {16u << 10, 64u << 10, 256u << 10}, 512u << 10},
};

DEFINE_VECTOR(path_vector, char *);

struct kept_chunk {
    struct chunk_id id;
    uint32_t frame, offset, len;
};
DEFINE_VECTOR(kept_chunk_vector, struct kept_chunk);

struct kept_frame {
    uint64_t offset;
    uint32_t len;
};
DEFINE_VECTOR(kept_frame_vector, struct kept_frame);

struct id_set {
    struct chunk_id *slots;
    bool *used;
    size_t size; /* a power of two */
    size_t count;
};

struct run {
    const struct layout *layout;
    int level;
    struct keyring *keyring;
    struct chunker chunker;
    uint64_t table[256];
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
    uint8_t *frame, *packed, *box;
    size_t frame_fill;
    int fd;
    uint64_t stored_bytes; /* of frames */
    uint64_t plain_bytes, unique_bytes;
    double cut_seconds, store_seconds;
    struct id_set seen;
    struct kept_chunk_vector chunks;
    struct kept_frame_vector frames;
};

struct result {
    uint64_t chunk_count, plain_bytes, unique_bytes, stored_bytes;
    double cut_seconds, store_seconds, read_mean, read_p99;
};

static double cpu_seconds(void)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- which chunks there are ---- */

static bool id_set_insert(struct id_set *set, const struct chunk_id *id);

static int id_set_grow(struct id_set *set)
{
    struct id_set larger = {.size = set->size ? set->size * 2 : 1024};
    larger.slots = calloc(larger.size, sizeof(larger.slots[0]));
    larger.used = calloc(larger.size, sizeof(larger.used[0]));
    if (!larger.slots || !larger.used) {
        free(larger.slots);
        free(larger.used);
        return -ENOMEM;
    }
    for (size_t i = 0; i < set->size; i++) {
        if (set->used[i])
            (void)id_set_insert(&larger, &set->slots[i]);
    }
    free(set->slots);
    free(set->used);
    *set = larger;
    return 0;
}

/* false: was there. The set has room. */
static bool id_set_insert(struct id_set *set, const struct chunk_id *id)
{
    uint64_t hash;
    memcpy(&hash, id->bytes, sizeof(hash));
    size_t i = (size_t)hash & (set->size - 1);
    for (; set->used[i]; i = (i + 1) & (set->size - 1)) {
        if (chunk_id_equal(&set->slots[i], id))
            return false;
    }
    set->slots[i] = *id;
    set->used[i] = true;
    set->count++;
    return true;
}

/* ---- storing ---- */

static int frame_finish(struct run *run)
{
    if (run->frame_fill == 0)
        return 0;
    double begin = cpu_seconds();
    size_t n = ZSTD_compress2(run->compress, run->packed, ZSTD_compressBound(FRAME_LEN_LIMIT),
                              run->frame, run->frame_fill);
    if (ZSTD_isError(n))
        return error_note(-EIO, "zstd: %s", ZSTD_getErrorName(n));
    bool shrunk = n < run->frame_fill;
    const struct iovec plain = {.iov_base = shrunk ? run->packed : run->frame,
                                .iov_len = shrunk ? n : run->frame_fill};
    int r = seal(run->keyring, SEAL_DATA_FRAME, NULL, 0, &plain, 1, run->box);
    run->store_seconds += cpu_seconds() - begin;
    if (r < 0)
        return r;

    const struct kept_frame frame = {.offset = run->stored_bytes,
                                     .len = (uint32_t)(plain.iov_len + SEAL_OVERHEAD)};
    if (pwrite(run->fd, run->box, frame.len, (off_t)frame.offset) != (ssize_t)frame.len)
        return error_note_describe(-errno, "cannot write the pack");
    run->stored_bytes += frame.len;
    run->frame_fill = 0;
    return kept_frame_vector_push(&run->frames, &frame);
}

static int chunk_store(struct run *run, const struct chunk_id *id, const uint8_t *data, size_t len)
{
    size_t limit = run->layout->frame_len;
    if (limit == 0 || run->frame_fill + len > limit) {
        int r = frame_finish(run);
        if (r < 0)
            return r;
    }
    const struct kept_chunk chunk = {.id = *id,
                                     .frame = (uint32_t)run->frames.count,
                                     .offset = (uint32_t)run->frame_fill,
                                     .len = (uint32_t)len};
    memcpy(run->frame + run->frame_fill, data, len);
    run->frame_fill += len;
    run->unique_bytes += len;
    return kept_chunk_vector_push(&run->chunks, &chunk);
}

static int data_store(struct run *run, const uint8_t *data, size_t len)
{
    int r = 0;
    for (size_t pos = 0; r == 0 && pos < len;) {
        struct chunk_id id;
        double begin = cpu_seconds();
        size_t n = chunker_next(&run->chunker, data + pos, len - pos, true);
        chunk_id_compute(run->keyring, CHUNK_DATA, data + pos, n, &id);
        if (run->seen.count * 2 >= run->seen.size)
            r = id_set_grow(&run->seen);
        bool fresh = r == 0 && id_set_insert(&run->seen, &id);
        run->cut_seconds += cpu_seconds() - begin;
        if (fresh)
            r = chunk_store(run, &id, data + pos, n);
        pos += n;
    }
    run->plain_bytes += len;
    return r;
}

static int file_store(struct run *run, const char *path)
{
    struct stat st;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return 0; /* gone, or not ours to read */
    if (st.st_size == 0 || st.st_size > FILE_LEN_MAX)
        return 0;
    CLEANUP_FREE uint8_t *data = malloc((size_t)st.st_size);
    if (!data)
        return -ENOMEM;
    size_t len = 0;
    while (len < (size_t)st.st_size) {
        ssize_t n = read(fd, data + len, (size_t)st.st_size - len);
        if (n < 0)
            return error_note_describe(-errno, "cannot read '%s'", path);
        if (n == 0)
            break;
        len += (size_t)n;
    }
    return data_store(run, data, len);
}

/* ---- reading back ---- */

static int read_once(struct run *run, const struct kept_chunk *chunk, uint8_t *out)
{
    const struct kept_frame *frame = &run->frames.items[chunk->frame];
    struct chunk_id id;

    if (pread(run->fd, run->box, frame->len, (off_t)frame->offset) != (ssize_t)frame->len)
        return error_note_describe(-errno, "cannot read the pack");
    int r = unseal(run->keyring, SEAL_DATA_FRAME, NULL, 0, run->box, frame->len, run->packed);
    if (r < 0)
        return r;
    const uint8_t *plain = run->packed;
    size_t packed_len = frame->len - SEAL_OVERHEAD;
    if (packed_len >= 4 && memcmp(run->packed, "\x28\xb5\x2f\xfd", 4) == 0) {
        size_t n = ZSTD_decompressDCtx(run->decompress, run->frame, FRAME_LEN_LIMIT, run->packed,
                                       packed_len);
        if (!ZSTD_isError(n))
            plain = run->frame;
    }
    chunk_id_compute(run->keyring, CHUNK_DATA, plain + chunk->offset, chunk->len, &id);
    if (!chunk_id_equal(&id, &chunk->id))
        return error_note(-UMBRA_E_CORRUPT, "read something else than was stored");
    memcpy(out, plain + chunk->offset, chunk->len < READ_LEN ? chunk->len : READ_LEN);
    return 0;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* A chunk is hit as often as it has bytes. Seconds of CPU: mean and 99th percentile. */
static int read_back(struct run *run, double *ret_mean, double *ret_p99)
{
    static double times[READ_COUNT];
    static uint8_t out[READ_LEN];
    CLEANUP_FREE uint64_t *ends = calloc(run->chunks.count, sizeof(*ends));
    uint64_t state = 1, total = 0;
    double sum = 0;

    if (!ends)
        return -ENOMEM;
    for (size_t i = 0; i < run->chunks.count; i++)
        ends[i] = total += run->chunks.items[i].len;
    for (size_t i = 0; i < READ_COUNT; i++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        uint64_t at = (state >> 11) % total;
        size_t low = 0, high = run->chunks.count - 1;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (ends[middle] <= at)
                low = middle + 1;
            else
                high = middle;
        }
        double begin = cpu_seconds();
        int r = read_once(run, &run->chunks.items[low], out);
        times[i] = cpu_seconds() - begin;
        if (r < 0)
            return r;
        sum += times[i];
    }
    qsort(times, READ_COUNT, sizeof(times[0]), compare_doubles);
    *ret_mean = sum / READ_COUNT;
    *ret_p99 = times[READ_COUNT * 99 / 100];
    return 0;
}

/* ---- a run ---- */

static int run_open(struct run *run)
{
    char path[] = "/var/tmp/chunk-sizes-XXXXXX";

    run->fd = mkostemp(path, O_CLOEXEC);
    if (run->fd < 0 || unlink(path) < 0)
        return error_note_describe(-errno, "cannot make a temporary file");
    run->compress = ZSTD_createCCtx();
    run->decompress = ZSTD_createDCtx();
    run->frame = malloc(FRAME_LEN_LIMIT);
    run->packed = malloc(ZSTD_compressBound(FRAME_LEN_LIMIT));
    run->box = malloc(ZSTD_compressBound(FRAME_LEN_LIMIT) + SEAL_OVERHEAD);
    if (!run->compress || !run->decompress || !run->frame || !run->packed || !run->box)
        return -ENOMEM;
    (void)ZSTD_CCtx_setParameter(run->compress, ZSTD_c_compressionLevel, run->level);
    keyring_gear_table(run->keyring, run->table);
    return chunker_init(&run->chunker, CHUNKER_GEAR, &run->layout->sizes, run->table);
}

static void run_release(struct run *run)
{
    if (run->fd >= 0)
        (void)close(run->fd);
    ZSTD_freeCCtx(run->compress);
    ZSTD_freeDCtx(run->decompress);
    free(run->frame);
    free(run->packed);
    free(run->box);
    free(run->seen.slots);
    free(run->seen.used);
    kept_chunk_vector_release(&run->chunks);
    kept_frame_vector_release(&run->frames);
}

static int run_once(const struct layout *layout, int level, struct keyring *keyring,
                    const struct path_vector *paths, struct result *result)
{
    CLEANUP(run_release)
    struct run run = {.layout = layout, .level = level, .keyring = keyring, .fd = -EBADF};
    double mean = 0, p99 = 0;

    int r = run_open(&run);
    for (size_t i = 0; r == 0 && i < paths->count; i++)
        r = file_store(&run, paths->items[i]);
    if (r == 0)
        r = frame_finish(&run);
    if (r < 0)
        return r;
    if (run.chunks.count == 0)
        return error_note(-ENODATA, "there are no files with contents");
    r = read_back(&run, &mean, &p99);
    if (r < 0)
        return r;
    *result = (struct result){
        .chunk_count = run.chunks.count,
        .plain_bytes = run.plain_bytes,
        .unique_bytes = run.unique_bytes,
        .stored_bytes =
            run.stored_bytes + run.chunks.count * CHUNK_COST + run.frames.count * FRAME_COST,
        .cut_seconds = fmin(result->cut_seconds, run.cut_seconds),
        .store_seconds = fmin(result->store_seconds, run.store_seconds),
        .read_mean = fmin(result->read_mean, mean),
        .read_p99 = fmin(result->read_p99, p99),
    };
    return 0;
}

static int run_layout(const struct layout *layout, int level, struct keyring *keyring,
                      unsigned rounds, const struct path_vector *paths)
{
    struct result best = {
        .cut_seconds = 1e9, .store_seconds = 1e9, .read_mean = 1e9, .read_p99 = 1e9};
    int r = 0;

    for (unsigned i = 0; r == 0 && i < rounds; i++)
        r = run_once(layout, level, keyring, paths, &best);
    if (r < 0)
        return r;
    double gib = (double)best.plain_bytes / (double)GIB;
    printf("%-30s %5d %9" PRIu64 " %9.1f %9.1f %7.2f %7.2f %7.2f %8.0f %8.0f\n", layout->name,
           level, best.chunk_count, (double)best.unique_bytes / (double)MIB,
           (double)best.stored_bytes / (double)MIB, best.cut_seconds / gib,
           best.store_seconds / gib, (best.cut_seconds + best.store_seconds) / gib,
           best.read_mean * 1e6, best.read_p99 * 1e6);
    (void)fflush(stdout);
    return 0;
}

/* ---- the files ---- */

static struct path_vector found_paths;

static int add_path(const char *path, const struct stat *st _unused_, int type,
                    struct FTW *ftw _unused_)
{
    if (type != FTW_F || !S_ISREG(st->st_mode))
        return 0;
    char *copy = strdup(path);
    return copy ? path_vector_push(&found_paths, &copy) : -ENOMEM;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

struct request {
    const char *levels, *only;
    unsigned rounds;
};

static int measure(const struct request *request)
{
    struct keyring *keyring = NULL;
    const uint8_t master[MASTER_KEY_LEN] = {1}; /* the same cuts each time */

    int r = keyring_new(master, &keyring);
    if (r < 0)
        return r;
    printf("%-30s %5s %9s %9s %9s %7s %7s %7s %8s %8s\n", "chunks, frames", "level", "chunks",
           "uniq MiB", "kept MiB", "cut s/G", "pack s/G", "sum s/G", "4K us", "p99 us");
    for (size_t i = 0; r == 0 && i < ELEMENTSOF(layouts); i++) {
        if (!strstr(layouts[i].name, request->only))
            continue;
        for (const char *level = request->levels; r == 0 && *level != '\0'; level++)
            r = run_layout(&layouts[i], *level - '0', keyring, request->rounds, &found_paths);
    }
    keyring_free(keyring);
    return r;
}

static int parse_request(int argc, char **argv, struct request *request)
{
    static const struct option options[] = {
        {"levels", required_argument, NULL, 'l'},
        {"only", required_argument, NULL, 'o'},
        {"rounds", required_argument, NULL, 'r'},
        {0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        switch (option) {
        case 'l': request->levels = optarg; break;
        case 'o': request->only = optarg; break;
        case 'r': request->rounds = (unsigned)strtoul(optarg, NULL, 10); break;
        default: return -EINVAL;
        }
    }
    bool fine = optind < argc && request->rounds > 0 &&
                strspn(request->levels, "123456789") == strlen(request->levels);
    return fine ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
    struct request request = {.levels = "3", .only = "", .rounds = 1};
    int r = parse_request(argc, argv, &request);
    if (r < 0) {
        (void)fprintf(stderr,
                      "usage: chunk-sizes [--levels 13] [--only TEXT] [--rounds N] PATH...\n");
        return 2;
    }
    for (int i = optind; r == 0 && i < argc; i++)
        r = nftw(argv[i], add_path, 64, FTW_PHYS) < 0 ? -errno : 0;
    if (r == 0 && found_paths.count > 0) {
        qsort(found_paths.items, found_paths.count, sizeof(char *), compare_paths);
        r = measure(&request);
    }
    for (size_t j = 0; j < found_paths.count; j++)
        free(found_paths.items[j]);
    path_vector_release(&found_paths);
    if (r < 0)
        (void)fprintf(stderr, "chunk-sizes: %s\n", error_text(r));
    return r < 0 ? 1 : 0;
}
