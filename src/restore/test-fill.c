/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "restore/fill.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "basic/test.h"
#include "restore/manifest.h"
#include "tree/key.h"

#define PAGE UINT64_C(4096)

/* A file of these extents, one after the other; DATA ones refer to chunks that nobody has. */
static struct entry make_entry(const struct extent *extents, size_t count)
{
    CLEANUP(buffer_release) struct buffer key = {0};
    struct entry e = {.type = ENTRY_REGULAR, .mode = 0644, .nlink = 1};

    key_put_path(&key, "some/file", 9);
    ASSERT_OK(buffer_finish(&key));
    e.key_len = (uint32_t)key.len;
    e.key = TAKE_PTR(key.data);
    for (size_t i = 0; i < count; i++) {
        struct extent x = extents[i];
        x.chunk.len = (uint32_t)x.len;
        x.chunk.location.pack_no = PACK_NO_NONE;
        x.chunk.id.bytes[0] = (uint8_t)i;
        ASSERT_OK(extent_vector_push(&e.extents, &x));
        e.size += x.len;
    }
    return e;
}

static const struct extent mixed[] = {
    {.kind = EXTENT_DATA, .len = 5000},
    {.kind = EXTENT_HOLE, .len = 10 * PAGE - 5000},
    {.kind = EXTENT_ZERO, .len = 3 * PAGE},
    {.kind = EXTENT_DATA, .len = PAGE + 7},
};

TEST(missing_is_whole_pages_with_data)
{
    struct entry e = make_entry(mixed, ELEMENTSOF(mixed));
    uint64_t start, end, size_bytes = e.size;
    struct fill fill;

    ASSERT_OK(fill_init(&fill, &e, size_bytes, -1, false));
    ASSERT_TRUE(fill_next(&fill, 0, UINT64_MAX, &start, &end));
    ASSERT_EQ(start, 0u);
    ASSERT_EQ(end, 2 * PAGE);
    ASSERT_TRUE(!fill_next(&fill, 2 * PAGE, 13 * PAGE, &start, &end));
    ASSERT_TRUE(fill_next(&fill, 13 * PAGE, 13 * PAGE + 1, &start, &end));
    ASSERT_EQ(start, 13 * PAGE);
    ASSERT_EQ(end, 14 * PAGE); /* what was asked for, and not what is behind it */
    ASSERT_TRUE(fill_next(&fill, 14 * PAGE + 1, UINT64_MAX, &start, &end));
    ASSERT_EQ(end, size_bytes);
    fill_release(&fill);
}

TEST(a_shortened_file_never_gets_its_end_back)
{
    struct entry e = make_entry(mixed, ELEMENTSOF(mixed));
    uint64_t start, end;
    struct fill fill;

    ASSERT_OK(fill_init(&fill, &e, e.size, -1, false));
    ASSERT_OK(fill_shorten(&fill, 4500));
    ASSERT_TRUE(fill_next(&fill, 0, UINT64_MAX, &start, &end));
    ASSERT_EQ(end, 4500u);
    ASSERT_OK(fill_shorten(&fill, 9000)); /* growing again changes nothing */
    ASSERT_TRUE(!fill_next(&fill, 2 * PAGE, UINT64_MAX, &start, &end));
    ASSERT_OK(fill_shorten(&fill, 0));
    ASSERT_TRUE(fill_is_complete(&fill));
    fill_release(&fill);
}

TEST(written_extents_are_there)
{
    const struct extent whole = {.kind = EXTENT_DATA, .len = 16 * PAGE};
    struct entry e = make_entry(&whole, 1);
    char path[4096], page[4096] = {1};
    uint64_t start, end;
    struct fill fill;

    (void)snprintf(path, sizeof(path), "%s/file", test_tmpdir());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(ftruncate(fd, 16 * PAGE), 0);
    ASSERT_EQ(pwrite(fd, page, sizeof(page), 4 * PAGE), (ssize_t)sizeof(page));
    int r = fill_init(&fill, &e, 16 * PAGE, fd, true);
    if (r == -EOPNOTSUPP) {
        test_skip("this file system does not list extents");
        return;
    }
    ASSERT_OK(r);
    ASSERT_TRUE(fill_next(&fill, 0, UINT64_MAX, &start, &end));
    ASSERT_EQ(start, 0u);
    ASSERT_EQ(end, 4 * PAGE);
    ASSERT_TRUE(fill_next(&fill, 4 * PAGE, UINT64_MAX, &start, &end));
    ASSERT_EQ(start, 5 * PAGE);
    ASSERT_EQ(end, 16 * PAGE);
    fill_release(&fill);
    (void)close(fd);
}

TEST(the_manifest_gives_back_what_it_got)
{
    struct manifest *manifest = NULL;
    struct pack_table *names = NULL;
    struct filter_handle handle = {.type = 1, .len = 8, .bytes = "abcdefg"}, got;
    const struct pack_name name = {.bytes = {1}};
    struct entry back;
    uint64_t ordinal;
    uint32_t pack_no;

    ASSERT_OK(pack_table_new(&names));
    ASSERT_OK(pack_table_intern(names, &name, &pack_no));
    ASSERT_OK(manifest_new(names, &manifest));
    for (uint64_t i = 0; i < 300; i++) {
        struct entry e = make_entry(mixed, ELEMENTSOF(mixed));
        for (size_t j = 0; j < e.extents.count; j++)
            e.extents.items[j].chunk.location = (struct chunk_location){.pack_no = pack_no};
        e.mtime.sec = (int64_t)i;
        ASSERT_OK(manifest_add(manifest, &e, &ordinal));
        ASSERT_EQ(ordinal, i);
        entry_release(&e);
    }
    ASSERT_EQ(manifest_count(manifest), 300u);
    ASSERT_OK(manifest_get(manifest, 17, &back));
    ASSERT_EQ(back.mtime.sec, 17);
    ASSERT_EQ(back.extents.count, ELEMENTSOF(mixed));
    entry_release(&back);
    ASSERT_EQ(manifest_get(manifest, 300, &back), -ENOENT);

    ASSERT_EQ(manifest_get_handle(manifest, 17, &got), -ENOENT);
    ASSERT_OK(manifest_set_handle(manifest, 17, &handle));
    ASSERT_OK(manifest_get_handle(manifest, 17, &got));
    ASSERT_EQ(memcmp(&got, &handle, sizeof(got)), 0);
    ASSERT_EQ(manifest_get_handle(manifest, 16, &got), -ENOENT);
    manifest_free(manifest);
    pack_table_free(names);
}

TEST_MAIN()
