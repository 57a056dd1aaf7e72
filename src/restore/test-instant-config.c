/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <sodium.h>
#include <stdlib.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "repo/keys.h"
#include "restore/instant.h"

#define ID_TEXT   "00f0e0d0c0b0a091"
#define BACKUP_ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define REQUIRED                                                                          \
    "\"version\":1,\"restore\":\"" ID_TEXT "\",\"phase\":\"filling\",\"repo\":\"/repo\"," \
    "\"backup\":\"" BACKUP_ID "\",\"target\":\"/target\""

static char *copy(const char *text)
{
    char *s = strdup(text);
    ASSERT_TRUE(s);
    return s;
}

static void make_config(struct instant_config *c)
{
    *c = (struct instant_config){
        .restore_id = 0x00f0e0d0c0b0a091,
        .phase = INSTANT_CANCELLED,
        .repo_url = copy("/srv/back\\up \"\xff\n"),
        .cache_dir = copy(""),
        .backup_id = copy(BACKUP_ID),
        .subpath = copy("/a/\xc3\xbc"),
        .target = copy("/mnt/\x01\xfe"),
        .digest = copy("00112233445566778899aabbccddeeff"),
        .numeric_owner = true,
        .idle = true,
        .limit_bytes_per_s = 50 * MIB,
        .whole_file_max = 0,
        .deadline_s = 7,
        .load_order = copy("/var/tmp/an order\n"),
        .record_order = copy("/var/tmp/next"),
    };
    ASSERT_OK(string_vector_add(&c->includes, "*.c"));
    ASSERT_OK(string_vector_add(&c->includes, "\xe9"));
    ASSERT_OK(string_vector_add(&c->excludes, "/tmp"));
    ASSERT_OK(string_vector_add(&c->sources, "dir:/mirror"));
    ASSERT_OK(string_vector_add(&c->sources, "exec:cat \"$1\""));
    ASSERT_OK(string_vector_add(&c->hole_seekers, "cp"));
}

static void give_passphrase(struct instant_config *c, const void *data, size_t len)
{
    ASSERT_OK(sodium_init());
    c->passphrase = sodium_malloc(len);
    ASSERT_TRUE(c->passphrase);
    memcpy(c->passphrase, data, len);
    c->passphrase_len = (uint32_t)len;
}

static void assert_lists_equal(const struct string_vector *a, const struct string_vector *b)
{
    ASSERT_EQ(a->count, b->count);
    for (size_t i = 0; i < a->count; i++)
        ASSERT_STREQ(a->items[i], b->items[i]);
}

static void assert_equal(const struct instant_config *a, const struct instant_config *b)
{
    ASSERT_EQ(a->restore_id, b->restore_id);
    ASSERT_EQ(a->phase, b->phase);
    ASSERT_STREQ(a->repo_url, b->repo_url);
    ASSERT_STREQ(a->cache_dir, b->cache_dir);
    ASSERT_STREQ(a->backup_id, b->backup_id);
    ASSERT_STREQ(a->subpath, b->subpath);
    ASSERT_STREQ(a->target, b->target);
    ASSERT_STREQ(a->digest, b->digest);
    ASSERT_STREQ(a->load_order, b->load_order);
    ASSERT_STREQ(a->record_order, b->record_order);
    assert_lists_equal(&a->includes, &b->includes);
    assert_lists_equal(&a->excludes, &b->excludes);
    assert_lists_equal(&a->sources, &b->sources);
    assert_lists_equal(&a->hole_seekers, &b->hole_seekers);
    ASSERT_EQ(a->numeric_owner, b->numeric_owner);
    ASSERT_EQ(a->idle, b->idle);
    ASSERT_EQ(a->limit_bytes_per_s, b->limit_bytes_per_s);
    ASSERT_EQ(a->whole_file_max, b->whole_file_max);
    ASSERT_EQ(a->deadline_s, b->deadline_s);
}

TEST(everything_comes_back)
{
    CLEANUP(instant_config_release) struct instant_config a = {0};
    CLEANUP(instant_config_release) struct instant_config b = {0};
    CLEANUP_FREE char *text = NULL;
    make_config(&a);
    ASSERT_OK(instant_config_to_json(&a, true, &text));
    ASSERT_OK(instant_config_from_json(text, strlen(text), &b));
    assert_equal(&a, &b);
    ASSERT_TRUE(!b.passphrase);
    ASSERT_TRUE(!strchr(text, '\n'));
}

TEST(passphrase_of_any_bytes_comes_back_when_asked_for)
{
    const size_t lengths[] = {1, 2, 3, 100, PASSPHRASE_LEN_MAX};
    uint64_t seed = 3;
    for (size_t i = 0; i < ELEMENTSOF(lengths); i++) {
        CLEANUP(instant_config_release) struct instant_config a = {0};
        CLEANUP(instant_config_release) struct instant_config b = {0};
        CLEANUP(instant_config_release) struct instant_config without = {0};
        CLEANUP_FREE char *text = NULL;
        CLEANUP_FREE char *open_text = NULL;
        uint8_t secret[PASSPHRASE_LEN_MAX];
        test_random_fill(&seed, secret, lengths[i]);
        make_config(&a);
        give_passphrase(&a, secret, lengths[i]);
        ASSERT_OK(instant_config_to_json(&a, true, &text));
        ASSERT_OK(instant_config_from_json(text, strlen(text), &b));
        assert_equal(&a, &b);
        ASSERT_EQ(b.passphrase_len, lengths[i]);
        ASSERT_MEMEQ(b.passphrase, secret, lengths[i]);

        ASSERT_OK(instant_config_to_json(&a, false, &open_text));
        ASSERT_TRUE(!strstr(open_text, "passphrase"));
        ASSERT_OK(instant_config_from_json(open_text, strlen(open_text), &without));
        ASSERT_TRUE(!without.passphrase);
    }
}

TEST(what_is_not_there_has_its_default)
{
    CLEANUP(instant_config_release) struct instant_config c = {0};
    const char text[] = "{" REQUIRED ",\"of the future\":[1]}";
    ASSERT_OK(instant_config_from_json(text, strlen(text), &c));
    ASSERT_EQ(c.phase, INSTANT_FILLING);
    ASSERT_EQ(c.whole_file_max, INSTANT_WHOLE_FILE_MAX_DEFAULT);
    ASSERT_EQ(c.deadline_s, INSTANT_DEADLINE_S_DEFAULT);
    ASSERT_EQ(c.limit_bytes_per_s, 0);
    ASSERT_EQ(c.sources.count, 0);
    ASSERT_FALSE(c.idle);
    ASSERT_TRUE(!c.cache_dir && !c.subpath && !c.passphrase);
}

static void assert_refused(const char *text, int error, const char *named)
{
    struct instant_config c;
    ASSERT_ERR(instant_config_from_json(text, strlen(text), &c), error);
    if (!strstr(error_text(error), named))
        test_fail(__FILE__, __LINE__, "'%s' does not name %s", error_text(error), named);
}

TEST(bad_members_are_named)
{
    static const struct {
        const char *text, *named;
    } bad[] = {
        {"{" REQUIRED ",\"restore\":\"0000000000000000\"}", "\"restore\""},
        {"{" REQUIRED ",\"restore\":\"00f0\"}", "\"restore\""},
        {"{" REQUIRED ",\"restore\":7}", "\"restore\""},
        {"{" REQUIRED ",\"phase\":\"other\"}", "\"phase\""},
        {"{" REQUIRED ",\"backup\":\"latest\"}", "\"backup\""},
        {"{" REQUIRED ",\"backup\":\"" BACKUP_ID "0\"}", "\"backup\""},
        {"{" REQUIRED ",\"target\":\"relative\"}", "\"target\""},
        {"{" REQUIRED ",\"target\":\"\"}", "\"target\""},
        {"{" REQUIRED ",\"target\":\"/nul\\\\x00\"}", "\"target\""},
        {"{" REQUIRED ",\"target\":\"/nul\\u0000\"}", "\"target\""},
        {"{" REQUIRED ",\"target\":\"/\\\\\"}", "\"target\""},
        {"{" REQUIRED ",\"subpath\":\"etc\"}", "\"subpath\""},
        {"{" REQUIRED ",\"includes\":\"*\"}", "\"includes\""},
        {"{" REQUIRED ",\"includes\":[1]}", "\"includes\""},
        {"{" REQUIRED ",\"sources\":[\"ftp:/x\"]}", "\"sources\""},
        {"{" REQUIRED ",\"sources\":[\"dir:x\"]}", "\"sources\""},
        {"{" REQUIRED ",\"sources\":[\"exec:\"]}", "\"sources\""},
        {"{" REQUIRED ",\"hole_seekers\":[\"\"]}", "\"hole_seekers\""},
        {"{" REQUIRED ",\"hole_seekers\":[\"sixteen letters!\"]}", "\"hole_seekers\""},
        {"{" REQUIRED ",\"idle\":1}", "\"idle\""},
        {"{" REQUIRED ",\"limit_bytes_per_s\":-1}", "\"limit_bytes_per_s\""},
        {"{" REQUIRED ",\"limit_bytes_per_s\":99999999999999999999}", "\"limit_bytes_per_s\""},
        {"{" REQUIRED ",\"limit_bytes_per_s\":1.5}", "\"limit_bytes_per_s\""},
        {"{" REQUIRED ",\"deadline_s\":0}", "\"deadline_s\""},
        {"{" REQUIRED ",\"deadline_s\":86401}", "\"deadline_s\""},
        {"{" REQUIRED ",\"version\":0}", "\"version\""},
        {"{\"version\":1}", "\"restore\""},
    };
    for (size_t i = 0; i < ELEMENTSOF(bad); i++)
        assert_refused(bad[i].text, -UMBRA_E_CORRUPT, bad[i].named);
}

TEST(a_newer_version_is_refused_before_anything_else)
{
    assert_refused("{\"version\":2}", -UMBRA_E_VERSION, "version 2");
}

TEST(what_is_not_one_object_is_refused)
{
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "null",
        "[]",
        "\"x\"",
        "{" REQUIRED "} x",
        "{" REQUIRED "}{}",
        "{'version':1}",
        "{" REQUIRED ",}",
        "{" REQUIRED ",\"x\":[[[[[[[[[]]]]]]]]]}",
        "{" REQUIRED ",\"x\":\"\xff\"}",
        ",\"passphrase\":\"QQ==\"}",
        "{,\"passphrase\":\"QQ==\"}",
    };
    for (size_t i = 0; i < ELEMENTSOF(bad); i++)
        assert_refused(bad[i], -UMBRA_E_CORRUPT, "restore configuration");
    struct instant_config c;
    static const char nul[] = "{" REQUIRED "}\0";
    ASSERT_ERR(instant_config_from_json(nul, sizeof(nul), &c), -UMBRA_E_CORRUPT);
}

TEST(bad_passphrases_are_refused)
{
    assert_refused("{" REQUIRED ",\"passphrase\":\"Q\"}", -UMBRA_E_CORRUPT, "passphrase");
    assert_refused("{" REQUIRED ",\"passphrase\":\"****\"}", -UMBRA_E_CORRUPT, "passphrase");

    char text[sizeof(REQUIRED) + 2 * PASSPHRASE_LEN_MAX];
    char encoded[PASSPHRASE_LEN_MAX / 3 * 4 + 9];
    memset(encoded, 'A', sizeof(encoded));
    encoded[sizeof(encoded) - 1] = '\0';
    (void)snprintf(text, sizeof(text), "{" REQUIRED ",\"passphrase\":\"%s\"}", encoded);
    assert_refused(text, -UMBRA_E_CORRUPT, "passphrase");
}

TEST(a_string_cannot_look_like_a_passphrase)
{
    CLEANUP(instant_config_release) struct instant_config a = {0};
    CLEANUP(instant_config_release) struct instant_config b = {0};
    CLEANUP_FREE char *text = NULL;
    make_config(&a);
    free(a.repo_url);
    a.repo_url = copy(",\"passphrase\":\"QQ==\"}");
    ASSERT_OK(instant_config_to_json(&a, true, &text));
    ASSERT_OK(instant_config_from_json(text, strlen(text), &b));
    ASSERT_STREQ(b.repo_url, a.repo_url);
    ASSERT_TRUE(!b.passphrase);
}

TEST(ids)
{
    char text[INSTANT_ID_LEN + 1];
    uint64_t id;
    instant_id_format(0xa1, text);
    ASSERT_STREQ(text, "00000000000000a1");
    ASSERT_OK(instant_id_parse(text, &id));
    ASSERT_EQ(id, 0xa1);
    ASSERT_ERR(instant_id_parse("0000000000000000", &id), -EINVAL);
    ASSERT_ERR(instant_id_parse("00000000000000a", &id), -EINVAL);
}

TEST_MAIN()
