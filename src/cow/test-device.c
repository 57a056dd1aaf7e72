/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/test.h"
#include "cow/cow.h"

#define IMAGE_BYTES ((size_t)3 * 1024 * 1024 + 512)

static int open_image(uint64_t bytes)
{
    char path[4096];
    (void)snprintf(path, sizeof(path), "%s/image", test_tmpdir());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(ftruncate(fd, (off_t)bytes), 0);
    return fd;
}

static struct cow_device *new_image(uint64_t bytes)
{
    struct cow_device *device;
    ASSERT_OK(cow_device_new_fd(open_image(bytes), &device));
    ASSERT_EQ(device->size_bytes, bytes);
    return device;
}

/* Requests of any sectors, to and from any address, against an array. */
static void compare_at_random(size_t bytes)
{
    CLEANUP(cow_device_freep) struct cow_device *device = new_image(bytes);
    CLEANUP_FREE uint8_t *model = calloc(1, bytes), *got = malloc(bytes + 1);
    uint64_t random = bytes;
    ASSERT_TRUE(model && got);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t offset = test_random(&random) % (bytes / 512) * 512;
        size_t most = test_random(&random) % 10 ? 16384 : bytes;
        size_t len = (size_t)(test_random(&random) % (MIN(most, bytes - offset) / 512 + 1)) * 512;
        size_t odd = test_random(&random) % 2;
        if (test_random(&random) % 2) {
            test_random_fill(&random, model + offset, len);
            memcpy(got + odd, model + offset, len);
            ASSERT_OK(device->ops->write(device, got + odd, len, offset));
        } else {
            ASSERT_OK(device->ops->read(device, got + odd, len, offset));
            ASSERT_EQ(memcmp(got + odd, model + offset, len), 0);
        }
    }
    ASSERT_OK(device->ops->flush(device));
    ASSERT_OK(device->ops->read(device, got, bytes, 0));
    ASSERT_EQ(memcmp(got, model, bytes), 0);
}

TEST(any_request_is_served)
{
    compare_at_random(IMAGE_BYTES);
    compare_at_random(IMAGE_BYTES - 512);
}

TEST(discarded_ranges_are_zero_and_no_data)
{
    CLEANUP(cow_device_freep) struct cow_device *device = new_image(IMAGE_BYTES);
    CLEANUP_FREE uint8_t *bytes = malloc(MIB);
    uint64_t start, end;
    ASSERT_TRUE(bytes != NULL);
    memset(bytes, 1, MIB);
    ASSERT_OK(device->ops->write(device, bytes, MIB, MIB));
    ASSERT_OK(device->ops->flush(device));
    ASSERT_OK(device->ops->find_data(device, 0, &start, &end));
    ASSERT_LE(start, MIB);
    ASSERT_GE(end, 2 * MIB);
    int r = device->ops->discard(device, MIB, MIB);
    if (r == -EOPNOTSUPP) {
        ASSERT_ERR(device->ops->discard(device, MIB, MIB), -EOPNOTSUPP);
        return;
    }
    ASSERT_OK(r);
    ASSERT_OK(device->ops->read(device, bytes, MIB, MIB));
    for (size_t i = 0; i < MIB; i++)
        ASSERT_EQ(bytes[i], 0);
}

TEST(what_is_no_device_is_refused)
{
    struct cow_device *device;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    ASSERT_ERR(cow_device_new_fd(fd, &device), -ENOTBLK);
    ASSERT_EQ(close(fd), 0);
}

/* Nothing of a sparse file is kept, and its holes stay known. */
TEST(holes_of_an_image_are_known_to_be_zero)
{
    CLEANUP(io_freep) struct io *io = NULL;
    CLEANUP(cow_device_freep) struct cow_device *device = new_image(IMAGE_BYTES);
    CLEANUP(cow_freep) struct cow *cow = NULL;
    uint8_t bytes[16384] = {1};
    ASSERT_OK(device->ops->write(device, bytes, sizeof(bytes), MIB));
    ASSERT_OK(io_new_memory(1, &io));
    const struct cow_place place = {.storage = io, .origin = device};
    const struct cow_options options = {.max_bytes = MIB, .log_bytes = MIB};
    ASSERT_OK(cow_create(&place, &options));
    ASSERT_OK(cow_open(&place, &options, &cow));
    struct cow_stat st;
    cow_stat(cow, &st);
    uint64_t blocks = (IMAGE_BYTES + sizeof(bytes) - 1) / sizeof(bytes);
    ASSERT_LT(st.zero_blocks, blocks);
    ASSERT_GT(st.zero_blocks, blocks / 2);
    const struct cow_take how = {0};
    uint32_t number;
    uint64_t hold_ns;
    ASSERT_OK(cow_shadow_take(cow, &how, &number, &hold_ns));
    ASSERT_OK(cow_write(cow, bytes, sizeof(bytes), 0));
    cow_stat(cow, &st);
    ASSERT_EQ(st.used_bytes, 0);
    ASSERT_OK(cow_write(cow, bytes, sizeof(bytes), MIB));
    cow_stat(cow, &st);
    ASSERT_EQ(st.used_bytes, sizeof(bytes));
}

TEST_MAIN()
