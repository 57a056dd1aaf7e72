/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/pending.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"

static const struct pending sample = {
    .flags = PENDING_WRITTEN,
    .generation = 0xfedcba98,
    .inode = UINT64_C(0x0123456789abcdef),
    .restore_id = UINT64_C(0xffffffff00000001),
    .ordinal = 77,
    .valid_bytes = UINT64_C(1) << 40,
};

TEST(round_trip)
{
    uint8_t value[PENDING_LEN];
    struct pending back;

    pending_encode(&sample, value);
    ASSERT_OK(pending_decode(value, sizeof(value), &back));
    ASSERT_EQ(back.flags, sample.flags);
    ASSERT_EQ(back.generation, sample.generation);
    ASSERT_EQ(back.inode, sample.inode);
    ASSERT_EQ(back.restore_id, sample.restore_id);
    ASSERT_EQ(back.ordinal, sample.ordinal);
    ASSERT_EQ(back.valid_bytes, sample.valid_bytes);
}

TEST(every_flipped_bit_and_every_length_is_refused)
{
    uint8_t value[PENDING_LEN];
    struct pending back;

    for (unsigned bit = 0; bit < 8 * PENDING_LEN; bit++) {
        pending_encode(&sample, value);
        value[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ASSERT_TRUE(pending_decode(value, sizeof(value), &back) < 0);
    }
    pending_encode(&sample, value);
    for (size_t len = 0; len < PENDING_LEN; len++)
        ASSERT_EQ(pending_decode(value, len, &back), -UMBRA_E_CORRUPT);
    value[0] = PENDING_VERSION + 1;
    ASSERT_EQ(pending_decode(value, sizeof(value), &back), -UMBRA_E_VERSION);
}

TEST(a_copied_mark_says_nothing)
{
    char path[4096];
    struct pending pending = {.restore_id = 5, .valid_bytes = 4096}, back;
    uint8_t value[PENDING_LEN];
    bool foreign;

    (void)snprintf(path, sizeof(path), "%s/a", test_tmpdir());
    CLEANUP_CLOSE int a = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    (void)snprintf(path, sizeof(path), "%s/b", test_tmpdir());
    CLEANUP_CLOSE int b = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_TRUE(a >= 0 && b >= 0);
    int r = pending_set(a, &pending);
    if (r == -EPERM || r == -EOPNOTSUPP || r == -ENOTTY) {
        test_skip("needs root and a file system with trusted attributes and inode generations");
        return;
    }
    ASSERT_OK(r);
    ASSERT_OK(pending_get(a, &back, &foreign));
    ASSERT_EQ(back.valid_bytes, 4096u);
    ASSERT_TRUE(!foreign);

    ASSERT_EQ(fgetxattr(a, PENDING_XATTR, value, sizeof(value)), (ssize_t)PENDING_LEN);
    ASSERT_EQ(fsetxattr(b, PENDING_XATTR, value, sizeof(value), 0), 0);
    ASSERT_EQ(pending_get(b, &back, &foreign), -ENODATA);
    ASSERT_TRUE(foreign);
    ASSERT_OK(pending_remove(b));
    ASSERT_OK(pending_remove(b));
    ASSERT_EQ(pending_get(b, &back, &foreign), -ENODATA);
    ASSERT_TRUE(!foreign);
}

TEST_MAIN()
