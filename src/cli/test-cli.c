/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The helpers of the verbs: paths, names, numbers, tables, passphrase files. */
#include "cli/cli.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/test.h"
#include "cli/describe.h"
#include "cli/passphrase.h"

static void expect_normalised(const char *path, const char *expected)
{
    CLEANUP_FREE char *got = path_normalise(path);
    ASSERT_TRUE(got != NULL);
    ASSERT_STREQ(got, expected);
}

TEST(paths_are_normalised)
{
    expect_normalised("", "");
    expect_normalised("/", "");
    expect_normalised("///", "");
    expect_normalised("/usr/bin", "usr/bin");
    expect_normalised("usr//bin/", "usr/bin");
    expect_normalised("/./usr/./bin/.", "usr/bin");
    expect_normalised("/usr/lib/../bin", "usr/bin");
    expect_normalised("/..", "");
    expect_normalised("/../../etc", "etc");
    expect_normalised("/a/b/../../c", "c");
    expect_normalised("/a/..b/...", "a/..b/...");
}

TEST(backup_and_path_are_taken_apart)
{
    CLEANUP_FREE char *name = NULL;
    CLEANUP_FREE char *path = NULL;
    ASSERT_OK(cli_parse_backup_path("latest:/etc//passwd:x", &name, &path));
    ASSERT_STREQ(name, "latest");
    ASSERT_STREQ(path, "etc/passwd:x");
    free(TAKE_PTR(name));
    free(TAKE_PTR(path));

    ASSERT_OK(cli_parse_backup_path("1a2b", &name, &path));
    ASSERT_STREQ(name, "1a2b");
    ASSERT_TRUE(path == NULL);
    free(TAKE_PTR(name));

    ASSERT_OK(cli_parse_backup_path("1a2b:", &name, &path));
    ASSERT_STREQ(path, "");
    char *other_name = NULL, *other_path = NULL;
    ASSERT_ERR(cli_parse_backup_path(":/etc", &other_name, &other_path), -UMBRA_E_USAGE);
}

static void expect_absolute(const char *path, const char *base, const char *expected)
{
    CLEANUP_FREE char *got = NULL;
    CLEANUP_FREE char *want = NULL;
    ASSERT_OK(path_make_absolute(path, &got));
    ASSERT_TRUE(asprintf(&want, "%s%s", base, expected) >= 0);
    ASSERT_STREQ(got, want);
}

TEST(paths_become_absolute_without_following_the_last_link)
{
    CLEANUP_FREE char *base = realpath(test_tmpdir(), NULL);
    ASSERT_TRUE(base != NULL);
    ASSERT_EQ(chdir(base), 0);
    ASSERT_EQ(mkdir("dir", 0755), 0);
    ASSERT_EQ(mkdir("dir/sub", 0755), 0);
    ASSERT_EQ(symlink("dir/sub", "link"), 0);
    ASSERT_EQ(symlink("nowhere", "dangling"), 0);

    expect_absolute("dir", base, "/dir");
    expect_absolute("./dir//sub", base, "/dir/sub");
    expect_absolute("link", base, "/link");
    expect_absolute("link/", base, "/dir/sub");
    expect_absolute("link/..", base, "/dir");
    expect_absolute("dangling", base, "/dangling");
    expect_absolute(".", base, "");
    expect_absolute("/", "/", "");
    expect_absolute("/etc", "", "/etc");

    char *path = NULL;
    ASSERT_ERR(path_make_absolute("missing", &path), -ENOENT);
    ASSERT_ERR(path_make_absolute("", &path), -UMBRA_E_USAGE);
}

static void expect_mode(enum entry_type type, uint32_t mode, const char *expected)
{
    struct entry e = {.type = type, .mode = mode};
    char text[12];
    ASSERT_STREQ(entry_mode_text(&e, text), expected);
}

TEST(modes_look_as_in_ls)
{
    expect_mode(ENTRY_REGULAR, 0644, "-rw-r--r--");
    expect_mode(ENTRY_DIRECTORY, 01777, "drwxrwxrwt");
    expect_mode(ENTRY_DIRECTORY, 01776, "drwxrwxrwT");
    expect_mode(ENTRY_REGULAR, 04755, "-rwsr-xr-x");
    expect_mode(ENTRY_REGULAR, 06644, "-rwSr-Sr--");
    expect_mode(ENTRY_REGULAR, 02755, "-rwxr-sr-x");
    expect_mode(ENTRY_SYMLINK, 0777, "lrwxrwxrwx");
    expect_mode(ENTRY_REGULAR, 0, "----------");
}

TEST(an_acl_shows)
{
    struct xattr acl = {.name = (char[]){"system.posix_acl_access"}};
    struct entry e = {.type = ENTRY_REGULAR, .mode = 0640, .xattrs = {.items = &acl, .count = 1}};
    char text[12];
    ASSERT_STREQ(entry_mode_text(&e, text), "-rw-r-----+");
}

TEST(counts_have_groups_of_three)
{
    char text[32];
    ASSERT_STREQ(format_count(0, text), "0");
    ASSERT_STREQ(format_count(999, text), "999");
    ASSERT_STREQ(format_count(1000, text), "1,000");
    ASSERT_STREQ(format_count(1234567, text), "1,234,567");
    ASSERT_STREQ(format_count(UINT64_MAX, text), "18,446,744,073,709,551,615");
}

static const char *json_member(struct json_object *object, const char *key)
{
    struct json_object *value = NULL;
    return json_object_object_get_ex(object, key, &value) ? json_object_get_string(value) : NULL;
}

TEST(hex_is_added_for_names_that_need_it)
{
    CLEANUP_JSON struct json_object *object = json_new_object();
    json_add_name(object, "plain", "Grüße", strlen("Grüße"));
    json_add_name(object, "odd", "a\xff\n", 3);
    ASSERT_STREQ(json_member(object, "plain"), "Grüße");
    ASSERT_TRUE(json_member(object, "plain_hex") == NULL);
    ASSERT_STREQ(json_member(object, "odd"), "a\\xff\\x0a");
    ASSERT_STREQ(json_member(object, "odd_hex"), "61ff0a");
}

/* ---- passphrases ---- */

static char *write_file(const char *name, const char *text, size_t len, mode_t mode)
{
    char *path;
    ASSERT_TRUE(asprintf(&path, "%s/%s", test_tmpdir(), name) >= 0);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, text, len), len);
    ASSERT_EQ(fchmod(fd, mode), 0);
    (void)close(fd);
    return path;
}

static void expect_passphrase(const char *text, size_t len, const char *expected)
{
    CLEANUP(passphrase_release) struct passphrase p = {0};
    CLEANUP_FREE char *path = write_file("pw", text, len, 0600);
    ASSERT_OK(passphrase_read_file(path, &p));
    ASSERT_EQ(p.len, strlen(expected));
    ASSERT_MEMEQ(p.data, expected, p.len);
}

static void expect_no_passphrase(const char *text, size_t len, int error)
{
    struct passphrase p = {0};
    CLEANUP_FREE char *path = write_file("pw", text, len, 0600);
    ASSERT_ERR(passphrase_read_file(path, &p), error);
    ASSERT_TRUE(p.data == NULL);
}

TEST(a_passphrase_is_the_first_line)
{
    static char longest[PASSPHRASE_LEN_MAX + 2];
    ASSERT_OK(passphrase_protect_process());
    expect_passphrase("secret", 6, "secret");
    expect_passphrase("secret\n", 7, "secret");
    expect_passphrase(" two words \nmore\n", 17, " two words ");
    expect_no_passphrase("", 0, -EINVAL);
    expect_no_passphrase("\nsecret\n", 8, -EINVAL);

    memset(longest, 'x', sizeof(longest) - 1);
    longest[PASSPHRASE_LEN_MAX] = '\0';
    expect_passphrase(longest, PASSPHRASE_LEN_MAX, longest);
    longest[PASSPHRASE_LEN_MAX] = 'x';
    expect_no_passphrase(longest, PASSPHRASE_LEN_MAX + 1, -UMBRA_E_LIMIT);

    struct passphrase p = {0};
    ASSERT_ERR(passphrase_read_file("/nonexistent/pw", &p), -ENOENT);
}

TEST(a_passphrase_of_the_environment_is_wiped_there)
{
    CLEANUP(passphrase_release) struct passphrase p = {0};
    ASSERT_OK(passphrase_protect_process());
    ASSERT_EQ(setenv("UMBRA_TEST_PASSWORD", "open sesame", 1), 0);
    char *where = getenv("UMBRA_TEST_PASSWORD");
    ASSERT_OK(passphrase_read_env("UMBRA_TEST_PASSWORD", &p));
    ASSERT_EQ(p.len, 11);
    ASSERT_MEMEQ(p.data, "open sesame", 11);
    ASSERT_TRUE(getenv("UMBRA_TEST_PASSWORD") == NULL);
    for (size_t i = 0; i < 11; i++)
        ASSERT_EQ(where[i], 0);

    struct passphrase none = {0};
    ASSERT_ERR(passphrase_read_env("UMBRA_TEST_PASSWORD", &none), -ENOENT);
}

TEST_MAIN()
