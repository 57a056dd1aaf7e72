/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <pthread.h>

#include "basic/error.h"
#include "basic/test.h"

TEST(class_of_private_code_is_its_parent)
{
    ASSERT_EQ(error_class(-UMBRA_E_CORRUPT), EBADMSG);
    ASSERT_EQ(error_class(-UMBRA_E_CANCELLED), ECANCELED);
    ASSERT_EQ(error_class(-ENOENT), ENOENT);
}

TEST(describe_knows_every_code)
{
    ASSERT_STREQ(error_describe(-UMBRA_E_PASSPHRASE), "wrong passphrase");
    ASSERT_STREQ(error_describe(-ENOENT), "No such file or directory");
    char beyond[64];
    (void)snprintf(beyond, sizeof(beyond), "Unknown error %d", (int)ERROR_PRIVATE_END);
    ASSERT_STREQ(error_describe(-ERROR_PRIVATE_END), beyond);
    for (int code = ERROR_PRIVATE_FIRST + 1; code < ERROR_PRIVATE_END; code++)
        ASSERT_TRUE(strstr(error_describe(-code), "nknown") == NULL);
}

TEST(note_belongs_to_its_code)
{
    ASSERT_EQ(error_note(-ENOENT, "cannot open '%s'", "x") + ENOENT, 0);
    ASSERT_STREQ(error_text(-ENOENT), "cannot open 'x'");
    ASSERT_STREQ(error_text(-EACCES), "Permission denied");
}

TEST(describe_and_prefix_compose)
{
    int r = error_note_describe(-EIO, "cannot read '%s'", "y");
    ASSERT_STREQ(error_text(r), "cannot read 'y': Input/output error");
    r = error_prefix(r, "pack %d", 7);
    ASSERT_STREQ(error_text(r), "pack 7: cannot read 'y': Input/output error");
    /* Without a note of its own, the description is what gets the prefix. */
    r = error_prefix(-EACCES, "repository");
    ASSERT_STREQ(error_text(r), "repository: Permission denied");
}

TEST(own_text_may_be_an_argument)
{
    int r = error_note(-EIO, "inner");
    r = error_note(r, "outer (%s)", error_text(r));
    ASSERT_STREQ(error_text(r), "outer (inner)");
}

TEST(long_words_are_cut_not_overrun)
{
    char words[3000];
    memset(words, 'w', sizeof(words) - 1);
    words[sizeof(words) - 1] = '\0';
    int r = error_note_describe(-EIO, "%s", words);
    ASSERT_EQ(strlen(error_text(r)), sizeof(((struct error_report *)NULL)->text) - 1);
}

static void *fail_in_thread(void *userdata)
{
    error_save(userdata, error_note(-ENOSPC, "disk is full"));
    error_save(userdata, error_note(-EIO, "later failure"));
    return NULL;
}

TEST(report_carries_first_failure_across_threads)
{
    struct error_report report = {0};
    pthread_t thread;

    ASSERT_EQ(error_raise(&report), 0);
    ASSERT_EQ(pthread_create(&thread, NULL, fail_in_thread, &report), 0);
    ASSERT_EQ(pthread_join(thread, NULL), 0);
    ASSERT_ERR(error_raise(&report), -ENOSPC);
    ASSERT_STREQ(error_text(-ENOSPC), "disk is full");
}

TEST_MAIN()
