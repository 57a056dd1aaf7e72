/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/volume-config.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"

#define REQUIRED "\"version\":1,\"name\":\"v\",\"origin\":\"/dev/sdb\",\"storage\":\"/srv/diff\""

static char *copy(const char *text)
{
    char *s = strdup(text);
    ASSERT_TRUE(s);
    return s;
}

static void make_config(struct volume_config *c, const char *name)
{
    *c = (struct volume_config){
        .name = copy(name),
        .origin = copy("/dev/disk/by-id/a \\ \"\xff\n"),
        .storage = copy("/srv/\xc3\xbc"),
    };
    ASSERT_OK(string_vector_add(&c->excludes, "/swapfile"));
    ASSERT_OK(string_vector_add(&c->excludes, "*.\xe9"));
}

static void assert_equal(const struct volume_config *a, const struct volume_config *b)
{
    ASSERT_STREQ(a->name, b->name);
    ASSERT_STREQ(a->origin, b->origin);
    ASSERT_STREQ(a->storage, b->storage);
    ASSERT_EQ(a->excludes.count, b->excludes.count);
    for (size_t i = 0; i < a->excludes.count; i++)
        ASSERT_STREQ(a->excludes.items[i], b->excludes.items[i]);
}

/* A directory of this test alone; its parent is missing, too. */
static char *config_dir(const char *test)
{
    char *dir = NULL;
    ASSERT_TRUE(asprintf(&dir, "%s/%s/volumes", test_tmpdir(), test) > 0);
    return dir;
}

static void put_file(const char *dir, const char *name, const char *text)
{
    CLEANUP_FREE char *path = NULL;
    ASSERT_TRUE(asprintf(&path, "%s/%s", dir, name) > 0);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

TEST(names)
{
    static const char *const good[] = {"a", "7", "db-1", "a_b.c", "A.json", "a.."};
    static const char *const bad[] = {"",   ".",   "..",  ".a",  "-a",  "_a",       "a/b",  "/a",
                                      "a ", "a\n", "a@1", "a\\", "a%n", "\xc3\xbc", "a\x7f"};
    char longest[VOLUME_NAME_MAX + 2];
    for (size_t i = 0; i < ELEMENTSOF(good); i++)
        ASSERT_TRUE(volume_name_valid(good[i]));
    for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
        struct volume_config config;
        ASSERT_FALSE(volume_name_valid(bad[i]));
        ASSERT_ERR(volume_config_load(test_tmpdir(), bad[i], &config), -EINVAL);
        ASSERT_ERR(volume_config_remove(test_tmpdir(), bad[i]), -EINVAL);
    }
    memset(longest, 'x', sizeof(longest));
    longest[VOLUME_NAME_MAX] = '\0';
    ASSERT_OK(volume_name_check(longest));
    longest[VOLUME_NAME_MAX] = 'x';
    longest[VOLUME_NAME_MAX + 1] = '\0';
    ASSERT_ERR(volume_name_check(longest), -EINVAL);
}

TEST(text_round_trip)
{
    CLEANUP(volume_config_release) struct volume_config a = {0};
    CLEANUP(volume_config_release) struct volume_config b = {0};
    CLEANUP_FREE char *text = NULL;
    make_config(&a, "db-1");
    ASSERT_OK(volume_config_to_json(&a, &text));
    ASSERT_TRUE(!strchr(text, '\n'));
    ASSERT_OK(volume_config_from_json(text, strlen(text), &b));
    assert_equal(&a, &b);
}

TEST(bad_members_are_named)
{
    static const struct {
        const char *text, *named;
    } bad[] = {
        {"{" REQUIRED ",\"name\":\"../etc\"}", "\"name\""},
        {"{" REQUIRED ",\"name\":\"\"}", "\"name\""},
        {"{" REQUIRED ",\"name\":1}", "\"name\""},
        {"{" REQUIRED ",\"origin\":\"sdb\"}", "\"origin\""},
        {"{" REQUIRED ",\"origin\":\"/nul\\u0000\"}", "\"origin\""},
        {"{" REQUIRED ",\"storage\":\"\"}", "\"storage\""},
        {"{" REQUIRED ",\"storage\":null}", "\"storage\""},
        {"{" REQUIRED ",\"excludes\":\"*\"}", "\"excludes\""},
        {"{" REQUIRED ",\"excludes\":[1]}", "\"excludes\""},
        {"{" REQUIRED ",\"excludes\":[\"\"]}", "\"excludes\""},
        {"{" REQUIRED ",\"version\":0}", "\"version\""},
        {"{" REQUIRED ",\"version\":\"1\"}", "\"version\""},
        {"{\"version\":1}", "\"name\""},
        {"{}", "\"version\""},
        {"[]", "configuration of the volume"},
        {"", "configuration of the volume"},
        {"{" REQUIRED "}{}", "configuration of the volume"},
    };
    for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
        struct volume_config c;
        ASSERT_ERR(volume_config_from_json(bad[i].text, strlen(bad[i].text), &c), -UMBRA_E_CORRUPT);
        if (!strstr(error_text(-UMBRA_E_CORRUPT), bad[i].named))
            test_fail(__FILE__, __LINE__, "'%s' does not name %s", error_text(-UMBRA_E_CORRUPT),
                      bad[i].named);
    }
}

TEST(a_newer_version_is_refused_before_anything_else)
{
    struct volume_config c;
    static const char text[] = "{\"version\":2}";
    ASSERT_ERR(volume_config_from_json(text, strlen(text), &c), -UMBRA_E_VERSION);
}

TEST(sizes_are_bounded)
{
    CLEANUP(volume_config_release) struct volume_config a = {0};
    CLEANUP_FREE char *text = NULL;
    CLEANUP_FREE char *text_with_long_path = NULL;
    struct volume_config b;
    make_config(&a, "v");
    while (a.excludes.count <= VOLUME_EXCLUDES_MAX)
        ASSERT_OK(string_vector_add(&a.excludes, "x"));
    ASSERT_OK(volume_config_to_json(&a, &text));
    ASSERT_ERR(volume_config_from_json(text, strlen(text), &b), -UMBRA_E_CORRUPT);

    string_vector_release_all(&a.excludes);
    free(a.storage);
    a.storage = malloc(VOLUME_PATH_MAX + 2);
    ASSERT_TRUE(a.storage);
    memset(a.storage, '/', VOLUME_PATH_MAX + 1);
    a.storage[VOLUME_PATH_MAX + 1] = '\0';
    ASSERT_OK(volume_config_to_json(&a, &text_with_long_path));
    ASSERT_ERR(volume_config_from_json(text_with_long_path, strlen(text_with_long_path), &b),
               -UMBRA_E_CORRUPT);
}

TEST(files)
{
    CLEANUP_FREE char *dir = config_dir("files");
    CLEANUP_FREE char *path = NULL;
    CLEANUP(volume_config_release) struct volume_config a = {0};
    CLEANUP(volume_config_release) struct volume_config b = {0};
    CLEANUP(volume_config_release) struct volume_config c = {0};
    CLEANUP(string_vector_release_all) struct string_vector names = {0};
    struct stat st;
    make_config(&a, "zeta");
    make_config(&b, "alpha.json");
    ASSERT_OK(volume_config_list(dir, &names));
    ASSERT_EQ(names.count, 0);
    ASSERT_ERR(volume_config_load(dir, "zeta", &c), -ENOENT);
    ASSERT_OK(volume_config_save(dir, &a));
    ASSERT_ERR(volume_config_save(dir, &a), -EEXIST);
    ASSERT_OK(volume_config_save(dir, &b));
    put_file(dir, "tmp-0011", "{");
    put_file(dir, "-x.json", "{");
    put_file(dir, ".json", "{");
    ASSERT_OK(volume_config_list(dir, &names));
    ASSERT_EQ(names.count, 2);
    ASSERT_STREQ(names.items[0], "alpha.json");
    ASSERT_STREQ(names.items[1], "zeta");
    ASSERT_OK(volume_config_load(dir, "zeta", &c));
    assert_equal(&a, &c);
    ASSERT_TRUE(asprintf(&path, "%s/zeta.json", dir) > 0);
    ASSERT_EQ(stat(path, &st), 0);
    ASSERT_EQ(st.st_mode & 07777, 0600);
    ASSERT_OK(volume_config_remove(dir, "zeta"));
    ASSERT_ERR(volume_config_remove(dir, "zeta"), -ENOENT);
}

TEST(bad_files_are_named)
{
    CLEANUP_FREE char *dir = config_dir("bad");
    CLEANUP(volume_config_release) struct volume_config a = {0};
    struct volume_config b;
    make_config(&a, "a");
    ASSERT_OK(volume_config_save(dir, &a));
    put_file(dir, "v.json", "{" REQUIRED "}");
    put_file(dir, "w.json", "{" REQUIRED "}");
    put_file(dir, "x.json", "");
    ASSERT_OK(volume_config_load(dir, "v", &b));
    volume_config_release(&b);
    ASSERT_ERR(volume_config_load(dir, "w", &b), -UMBRA_E_CORRUPT);
    ASSERT_TRUE(strstr(error_text(-UMBRA_E_CORRUPT), "w.json"));
    ASSERT_ERR(volume_config_load(dir, "x", &b), -UMBRA_E_CORRUPT);
}

TEST(the_lock)
{
    CLEANUP_FREE char *dir = config_dir("lock");
    CLEANUP(volume_config_release) struct volume_config a = {0};
    int first, second;
    make_config(&a, "v");
    ASSERT_OK(volume_config_save(dir, &a));
    ASSERT_ERR(volume_config_lock(dir, "w", &first), -ENOENT);
    ASSERT_OK(volume_config_lock(dir, "v", &first));
    ASSERT_ERR(volume_config_lock(dir, "v", &second), -EBUSY);
    ASSERT_EQ(volume_config_is_locked(dir, "v"), 1);
    (void)close(first);
    ASSERT_EQ(volume_config_is_locked(dir, "v"), 0);
    ASSERT_ERR(volume_config_is_locked(dir, "w"), -ENOENT);
    ASSERT_OK(volume_config_lock(dir, "v", &second));
    ASSERT_OK(volume_config_remove(dir, "v"));
    ASSERT_ERR(volume_config_lock(dir, "v", &first), -ENOENT);
    (void)close(second);
}

TEST_MAIN()
