/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An index segment, opened: a mapped cache file.
 *
 * The file need not be synced when it is written, and its disk need not be trusted, because nothing
 * of it is used before it has been verified:
 *
 * 1. All but the records is covered by one hash, checked when the file is opened; it is read then
 *    anyway, the filter to stay in memory, the packs to get their numbers.
 * 2. The records, by far the largest part, are covered by a checksum for each block of
 *    INDEX_BLOCK_RECORDS, checked when the block is touched for the first time.  A lookup in a
 * block already seen costs one test of a bit.
 * 3. The hash covers the name of the segment's object, so another segment's file is not taken for
 *    this one.
 *
 * So a torn, stale, or foreign file can make nothing look present that is not: it is noticed, and
 * the segment is made again from its object.  Somebody who can write to the cache directory at will
 * could forge a file; the directory is the user's own (0700), who has the repository's key as well.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <blake3.h>

#include "basic/error.h"
#include "basic/log.h"
#include "basic/text.h"
#include "repo/index-private.h"

#define CACHE_NAME_PREFIX "index-"
#define CACHE_TMP_PREFIX  "tmp-index-"
#define CACHE_TMP_AGE_MAX (24 * 3600) /* seconds */

/* Guesses by interpolation before a search goes on by halves: ids are uniform, so two or three do.
 */
#define INTERPOLATION_STEPS_MAX 8u

/* ---- layout of the file ---- */

static size_t filter_offset_of(const struct segment_view *view)
{
    size_t len = segment_plain_len(view);
    return (len + INDEX_FILTER_BLOCK - 1) / INDEX_FILTER_BLOCK * INDEX_FILTER_BLOCK;
}

static uint32_t block_count_of(const struct segment_view *view)
{
    return (view->record_count + INDEX_BLOCK_RECORDS - 1) / INDEX_BLOCK_RECORDS;
}

static size_t checksums_offset_of(const struct segment_view *view)
{
    return filter_offset_of(view) +
           (size_t)filter_blocks_for(view->record_count) * INDEX_FILTER_BLOCK;
}

static size_t cache_len_of(const struct segment_view *view)
{
    return checksums_offset_of(view) + (size_t)block_count_of(view) * INDEX_CHECKSUM_LEN +
           sizeof(struct index_cache_trailer);
}

static void block_checksum(const struct segment_view *view, uint32_t block,
                           uint8_t checksum[INDEX_CHECKSUM_LEN])
{
    blake3_hasher hasher;
    uint32_t first = block * INDEX_BLOCK_RECORDS;
    uint32_t count = MIN(INDEX_BLOCK_RECORDS, view->record_count - first);
    blake3_hasher_init(&hasher);
    blake3_hasher_update(&hasher, view->records + first, count * sizeof(struct index_record));
    blake3_hasher_finalize(&hasher, checksum, INDEX_CHECKSUM_LEN);
}

/* head: the plain form; tail: what follows its records, trailer included. */
static void cache_hash(const void *head, const struct segment_view *view, const uint8_t *tail,
                       uint8_t hash[INDEX_CACHE_HASH_LEN])
{
    static const uint8_t zeros[INDEX_CACHE_HASH_LEN];
    blake3_hasher hasher;
    size_t tail_len = cache_len_of(view) - segment_plain_len(view);
    blake3_hasher_init(&hasher);
    blake3_hasher_update(&hasher, head,
                         sizeof(struct index_segment_header) +
                             (size_t)view->pack_count * sizeof(struct index_pack_entry));
    blake3_hasher_update(&hasher, tail, tail_len - INDEX_CACHE_HASH_LEN);
    blake3_hasher_update(&hasher, zeros, sizeof(zeros));
    blake3_hasher_finalize(&hasher, hash, INDEX_CACHE_HASH_LEN);
}

/* ---- making the file ---- */

/* All that follows the plain form; malloc'ed, *ret_len bytes. */
static int make_tail(const void *plain, const struct segment_view *view, const uint8_t digest[32],
                     uint8_t **ret_tail, size_t *ret_len)
{
    size_t plain_len = segment_plain_len(view);
    size_t len = cache_len_of(view) - plain_len;
    uint32_t filter_blocks = filter_blocks_for(view->record_count);
    uint8_t *tail = calloc(1, len);
    if (!tail)
        return error_note(-ENOMEM, "no memory for an index segment");

    uint8_t *filter = tail + (filter_offset_of(view) - plain_len);
    for (uint32_t i = 0; i < view->record_count; i++)
        filter_insert(filter, filter_blocks, view->records[i].prefix);
    uint8_t *checksums = tail + (checksums_offset_of(view) - plain_len);
    for (uint32_t i = 0; i < block_count_of(view); i++)
        block_checksum(view, i, checksums + (size_t)i * INDEX_CHECKSUM_LEN);

    struct index_cache_trailer *trailer =
        (struct index_cache_trailer *)(tail + len - sizeof(*trailer));
    memcpy(trailer->magic, INDEX_CACHE_MAGIC, sizeof(trailer->magic));
    trailer->version = le32_make(INDEX_VERSION);
    trailer->filter_block_count = le32_make(filter_blocks);
    memcpy(trailer->object_name, digest, sizeof(trailer->object_name));
    cache_hash(plain, view, tail, trailer->hash);
    *ret_tail = tail;
    *ret_len = len;
    return 0;
}

static int write_all(int fd, const void *data, size_t len)
{
    const uint8_t *pos = data;
    while (len > 0) {
        ssize_t n = write(fd, pos, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        pos += n;
        len -= (size_t)n;
    }
    return 0;
}

static char *cache_path(const char *cache_dir, const uint8_t digest[32])
{
    char hex[65];
    char *path = NULL;
    hex_encode(digest, 32, hex);
    return asprintf(&path, "%s/" CACHE_NAME_PREFIX "%s", cache_dir, hex) < 0 ? NULL : path;
}

/* An unlinked file. */
static int open_unlinked(int *ret_fd)
{
    CLEANUP_FREE char *path = NULL;
    const char *dir = secure_getenv("TMPDIR");
    if (!dir || dir[0] != '/')
        dir = "/var/tmp";
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        if (asprintf(&path, "%s/" CACHE_TMP_PREFIX "XXXXXX", dir) < 0)
            return -ENOMEM;
        fd = mkostemp(path, O_CLOEXEC);
        if (fd < 0)
            return error_note_describe(-errno, "cannot make a temporary file in '%s'", dir);
        (void)unlink(path);
    }
    *ret_fd = fd;
    return 0;
}

static int write_unlinked(const void *plain, size_t plain_len, const void *tail, size_t tail_len,
                          int *ret_fd)
{
    CLEANUP_CLOSE int fd = -EBADF;
    int r = open_unlinked(&fd);
    if (r < 0)
        return r;
    r = write_all(fd, plain, plain_len);
    if (r >= 0)
        r = write_all(fd, tail, tail_len);
    if (r < 0)
        return error_note_describe(r, "cannot write a temporary file for the index");
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* Whole under its name, or not there. */
static int write_cached(const char *cache_dir, const uint8_t digest[32], const void *plain,
                        size_t plain_len, const void *tail, size_t tail_len, int *ret_fd)
{
    CLEANUP_CLOSE int fd = -EBADF;
    CLEANUP_FREE char *path = cache_path(cache_dir, digest);
    CLEANUP_FREE char *tmp = NULL;
    if (!path || asprintf(&tmp, "%s/" CACHE_TMP_PREFIX "XXXXXX", cache_dir) < 0) {
        tmp = NULL;
        return -ENOMEM;
    }
    fd = mkostemp(tmp, O_CLOEXEC);
    if (fd < 0)
        return error_note_describe(-errno, "cannot make a file in '%s'", cache_dir);
    int r = write_all(fd, plain, plain_len);
    if (r >= 0)
        r = write_all(fd, tail, tail_len);
    if (r >= 0 && rename(tmp, path) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlink(tmp);
        return error_note_describe(r, "cannot write '%s'", path);
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* ---- opening ---- */

void segment_free(struct segment *segment)
{
    if (!segment)
        return;
    if (segment->map)
        (void)munmap(segment->map, segment->map_len);
    free(segment->pack_numbers);
    free(segment->verified);
    free(segment);
}

static int map_file(struct segment *segment, int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size <= (off_t)sizeof(struct index_cache_trailer))
        return -UMBRA_E_CORRUPT;
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return error_note_describe(-errno, "cannot map an index segment");
    segment->map = map;
    segment->map_len = (size_t)st.st_size;
    return 0;
}

/* Everything but the records: their blocks are verified when they are used. */
static int verify_map(struct segment *segment)
{
    uint8_t hash[INDEX_CACHE_HASH_LEN];
    const uint8_t *base = segment->map;
    int r = segment_view_make(base, segment->map_len, &segment->view);
    if (r < 0)
        return r;
    const struct segment_view *view = &segment->view;
    if (cache_len_of(view) != segment->map_len)
        return -UMBRA_E_CORRUPT;
    const struct index_cache_trailer *trailer =
        (const struct index_cache_trailer *)(base + segment->map_len - sizeof(*trailer));
    cache_hash(base, view, base + segment_plain_len(view), hash);
    if (memcmp(hash, trailer->hash, sizeof(hash)) != 0 ||
        memcmp(trailer->magic, INDEX_CACHE_MAGIC, sizeof(trailer->magic)) != 0 ||
        memcmp(trailer->object_name, segment->digest, sizeof(trailer->object_name)) != 0 ||
        le32_get(&trailer->version) != INDEX_VERSION ||
        le32_get(&trailer->filter_block_count) != filter_blocks_for(view->record_count))
        return -UMBRA_E_CORRUPT;
    segment->filter = base + filter_offset_of(view);
    segment->filter_block_count = le32_get(&trailer->filter_block_count);
    segment->checksums = base + checksums_offset_of(view);
    return 0;
}

static int number_packs(struct segment *segment, struct pack_table *names)
{
    segment->pack_numbers = calloc(segment->view.pack_count + 1u, sizeof(*segment->pack_numbers));
    if (!segment->pack_numbers)
        return error_note(-ENOMEM, "no memory for an index segment");
    for (uint32_t i = 0; i < segment->view.pack_count; i++) {
        struct pack_name name;
        memcpy(name.bytes, segment->view.packs[i].name, PACK_NAME_LEN);
        int r = pack_table_intern(names, &name, &segment->pack_numbers[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

static int segment_open_fd(int fd, const uint8_t digest[32], struct pack_table *names,
                           struct segment **ret_segment)
{
    CLEANUP(segment_freep) struct segment *segment = calloc(1, sizeof(*segment));
    if (!segment)
        return error_note(-ENOMEM, "no memory for an index segment");
    memcpy(segment->digest, digest, sizeof(segment->digest));
    int r = map_file(segment, fd);
    if (r < 0)
        return r;
    r = verify_map(segment);
    if (r < 0)
        return r;
    /* Lookups are random: what the kernel reads around them is of no use. */
    (void)madvise(segment->map, segment->map_len, MADV_RANDOM);
    segment->verified = calloc(block_count_of(&segment->view) / 64 + 1, sizeof(*segment->verified));
    if (!segment->verified)
        return error_note(-ENOMEM, "no memory for an index segment");
    r = number_packs(segment, names);
    if (r < 0)
        return r;
    *ret_segment = TAKE_PTR(segment);
    return 0;
}

int segment_open_cached(const char *cache_dir, const uint8_t digest[32], struct pack_table *names,
                        struct segment **ret_segment)
{
    CLEANUP_CLOSE int fd = -EBADF;
    CLEANUP_FREE char *path = cache_path(cache_dir, digest);
    if (!path)
        return error_note(-ENOMEM, "no memory for a path");
    fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -ENOENT;
    int r = segment_open_fd(fd, digest, names, ret_segment);
    if (r == 0 || r == -ENOMEM)
        return r;
    log_debug("cache file '%s' is not usable, making it again", path);
    (void)unlink(path);
    return -ENOENT;
}

int segment_open_plain(const char *cache_dir, const uint8_t digest[32], const void *plain,
                       size_t len, struct pack_table *names, struct segment **ret_segment,
                       int *ret_cache_error)
{
    CLEANUP_CLOSE int fd = -EBADF;
    CLEANUP_FREE uint8_t *tail = NULL;
    struct segment_view view;
    size_t tail_len = 0;
    int cache_error = 0;

    int r = segment_view_make(plain, len, &view);
    if (r >= 0)
        r = make_tail(plain, &view, digest, &tail, &tail_len);
    if (r < 0)
        return r;
    if (cache_dir)
        cache_error = write_cached(cache_dir, digest, plain, len, tail, tail_len, &fd);
    if (fd < 0) {
        r = write_unlinked(plain, len, tail, tail_len, &fd);
        if (r < 0)
            return r;
    }
    r = segment_open_fd(fd, digest, names, ret_segment);
    if (r < 0)
        return r;
    *ret_cache_error = cache_error;
    return 0;
}

/* ---- searching ---- */

static int verify_block(const struct segment *segment, uint32_t block)
{
    uint8_t checksum[INDEX_CHECKSUM_LEN];
    block_checksum(&segment->view, block, checksum);
    if (memcmp(checksum, segment->checksums + (size_t)block * INDEX_CHECKSUM_LEN,
               sizeof(checksum)) != 0)
        return -UMBRA_E_CORRUPT;
    atomic_fetch_or_explicit(&segment->verified[block / 64], UINT64_C(1) << (block % 64),
                             memory_order_relaxed);
    return 0;
}

int segment_verify_record(const struct segment *segment, uint32_t i)
{
    uint32_t block = i / INDEX_BLOCK_RECORDS;
    uint64_t word = atomic_load_explicit(&segment->verified[block / 64], memory_order_relaxed);
    return word & (UINT64_C(1) << (block % 64)) ? 0 : verify_block(segment, block);
}

int segment_verify_all(const struct segment *segment)
{
    for (uint32_t block = 0; block < block_count_of(&segment->view); block++) {
        int r = segment_verify_record(segment, block * INDEX_BLOCK_RECORDS);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The first bytes of a prefix as a number, in the same order. */
static uint64_t prefix_key(const uint8_t *prefix)
{
    uint64_t key;
    memcpy(&key, prefix, sizeof(key));
    return be64toh(key);
}

/* How many records lie between two keys, were all count of them spread evenly. */
static uint32_t even_distance(uint64_t key_distance, uint32_t count)
{
    return (uint32_t)(((unsigned __int128)key_distance * count) >> 64);
}

/* Where to look next, having seen a key at position: in [lo, hi), which is not empty. */
static uint32_t next_guess(uint32_t position, uint64_t seen, uint64_t wanted, uint32_t count,
                           uint32_t lo, uint32_t hi)
{
    if (wanted >= seen) {
        uint64_t guess = (uint64_t)position + even_distance(wanted - seen, count);
        return guess < lo ? lo : (guess >= hi ? hi - 1 : (uint32_t)guess);
    }
    uint32_t back = even_distance(seen - wanted, count);
    uint32_t guess = back < position ? position - back : 0;
    return guess < lo ? lo : (guess >= hi ? hi - 1 : guess);
}

int segment_find(const struct segment *segment, const uint8_t *prefix, uint32_t *ret_position)
{
    const struct segment_view *view = &segment->view;
    uint64_t wanted = prefix_key(prefix);
    uint32_t lo = 0, hi = view->record_count; /* it can only stand in [lo, hi) */
    uint32_t position = even_distance(wanted, view->record_count);

    for (unsigned step = 0; lo < hi; step++) {
        if (step >= INTERPOLATION_STEPS_MAX)
            position = lo + (hi - lo) / 2;
        int r = segment_verify_record(segment, position);
        if (r < 0)
            return r;
        const uint8_t *seen = view->records[position].prefix;
        int c = memcmp(seen, prefix, INDEX_PREFIX_LEN);
        if (c == 0) {
            *ret_position = position;
            return 1;
        }
        if (c < 0)
            lo = position + 1;
        else
            hi = position;
        if (lo < hi)
            position = next_guess(position, prefix_key(seen), wanted, view->record_count, lo, hi);
    }
    return 0;
}

static int has_prefix(const struct segment *segment, uint32_t i, const uint8_t *prefix)
{
    int r = segment_verify_record(segment, i);
    if (r < 0)
        return r;
    return memcmp(segment->view.records[i].prefix, prefix, INDEX_PREFIX_LEN) == 0;
}

int segment_find_all(const struct segment *segment, const uint8_t *prefix, uint32_t *ret_first,
                     uint32_t *ret_end)
{
    uint32_t first, end;
    int r = segment_find(segment, prefix, &first);
    if (r <= 0)
        return r;
    end = first + 1;
    while (first > 0 && (r = has_prefix(segment, first - 1, prefix)) > 0)
        first--;
    while (r >= 0 && end < segment->view.record_count && (r = has_prefix(segment, end, prefix)) > 0)
        end++;
    if (r < 0)
        return r;
    *ret_first = first;
    *ret_end = end;
    return 1;
}

void segment_fill_hit(const struct segment *segment, uint32_t position, struct index_hit *ret_hit)
{
    const struct index_record *record = &segment->view.records[position];
    uint32_t pack = le32_get(&record->pack);
    *ret_hit = (struct index_hit){
        .location =
            {
                .pack_no = segment->pack_numbers[pack],
                .frame_offset = le32_get(&record->frame_offset),
                .frame_len = le32_get(&record->frame_len),
                .chunk_offset = le32_get(&record->chunk_offset),
            },
        .len = le32_get(&record->chunk_len),
        .kind = (enum pack_kind)segment->view.packs[pack].kind,
    };
}

int segment_find_pack(const struct segment *segment, const struct pack_name *name,
                      uint32_t *ret_position)
{
    uint32_t lo = 0, hi = segment->view.pack_count;
    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;
        int c = memcmp(segment->view.packs[middle].name, name->bytes, PACK_NAME_LEN);
        if (c == 0) {
            *ret_position = middle;
            return 0;
        }
        if (c < 0)
            lo = middle + 1;
        else
            hi = middle;
    }
    return -ENOENT;
}

/* ---- keeping the cache tidy ---- */

void segment_cache_remove(const char *cache_dir, const uint8_t digest[32])
{
    CLEANUP_FREE char *path = cache_dir ? cache_path(cache_dir, digest) : NULL;
    if (path)
        (void)unlink(path);
}

static bool is_kept(const struct segment_vector *keep, const uint8_t digest[32])
{
    for (size_t i = 0; i < keep->count; i++) {
        if (memcmp(keep->items[i]->digest, digest, 32) == 0)
            return true;
    }
    return false;
}

static bool is_litter(int dir_fd, const char *name, const struct segment_vector *keep)
{
    uint8_t digest[32];
    struct stat st;
    if (strncmp(name, CACHE_TMP_PREFIX, strlen(CACHE_TMP_PREFIX)) == 0)
        return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
               st.st_mtime < time(NULL) - CACHE_TMP_AGE_MAX;
    return strncmp(name, CACHE_NAME_PREFIX, strlen(CACHE_NAME_PREFIX)) == 0 &&
           hex_decode(name + strlen(CACHE_NAME_PREFIX), digest, sizeof(digest)) == 0 &&
           !is_kept(keep, digest);
}

/* Another process may just have written a file that is swept here: it has it mapped, and the next
 * one makes it again. */
void segment_cache_sweep(const char *cache_dir, const struct segment_vector *keep)
{
    DIR *dir = opendir(cache_dir);
    if (!dir)
        return;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        if (is_litter(dirfd(dir), entry->d_name, keep))
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    (void)closedir(dir);
}
