/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tree/key.h"

#include <stdlib.h>
#include <string.h>

int key_compare(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    size_t common = MIN(a_len, b_len);
    int c = common > 0 ? memcmp(a, b, common) : 0;

    if (c != 0)
        return c;
    return (a_len > b_len) - (a_len < b_len);
}

static bool component_valid(const uint8_t *name, size_t len)
{
    if (len == 0 || len > KEY_NAME_MAX)
        return false;
    if (name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')))
        return false;
    return !memchr(name, '/', len);
}

/* Components with one NUL byte between them. */
static bool dir_valid(const uint8_t *dir, size_t len)
{
    for (;;) {
        const uint8_t *nul = memchr(dir, 0, len);
        size_t component_len = nul ? (size_t)(nul - dir) : len;

        if (!component_valid(dir, component_len))
            return false;
        if (!nul)
            return true;
        dir += component_len + 1;
        len -= component_len + 1;
    }
}

const uint8_t *key_name(const uint8_t *key, size_t len, size_t *ret_name_len)
{
    const uint8_t *nul = len > 0 ? memrchr(key, 0, len) : NULL;
    const uint8_t *name = nul ? nul + 1 : key;

    *ret_name_len = len - (size_t)(name - key);
    return name;
}

bool key_valid(const uint8_t *key, size_t len)
{
    size_t name_len, dir_len;

    if (len == 0)
        return true;
    if (len > KEY_LEN_MAX)
        return false;

    const uint8_t *name = key_name(key, len, &name_len);
    if (!component_valid(name, name_len))
        return false;
    if (len - name_len < 2 || name[-1] != 0 || name[-2] != 0)
        return false;
    dir_len = len - name_len - 2;
    return dir_len == 0 || dir_valid(key, dir_len);
}

static void put_dir(struct buffer *b, const char *dir, size_t dir_len)
{
    uint8_t *out = buffer_extend(b, dir_len);

    if (!out)
        return;
    for (size_t i = 0; i < dir_len; i++)
        out[i] = dir[i] == '/' ? 0 : (uint8_t)dir[i];
}

void key_put_children_prefix(struct buffer *b, const char *dir, size_t dir_len)
{
    put_dir(b, dir, dir_len);
    buffer_put_u16(b, 0);
}

void key_put(struct buffer *b, const char *dir, size_t dir_len, const char *name, size_t name_len)
{
    key_put_children_prefix(b, dir, dir_len);
    buffer_put(b, name, name_len);
}

void key_put_path(struct buffer *b, const char *path, size_t path_len)
{
    if (path_len == 0)
        return;

    const char *slash = memrchr(path, '/', path_len);
    if (!slash) {
        key_put(b, "", 0, path, path_len);
        return;
    }
    size_t dir_len = (size_t)(slash - path);
    key_put(b, path, dir_len, slash + 1, path_len - dir_len - 1);
}

static char *dir_to_path(const uint8_t *key, size_t dir_len, size_t room)
{
    char *path = malloc(room);

    if (!path)
        return NULL;
    for (size_t i = 0; i < dir_len; i++)
        path[i] = key[i] == 0 ? '/' : (char)key[i];
    path[dir_len] = '\0';
    return path;
}

/* How long the directory part of a valid key is. */
static size_t dir_len_of(const uint8_t *key, size_t len)
{
    size_t name_len;

    key_name(key, len, &name_len);
    return len - name_len < 2 ? 0 : len - name_len - 2;
}

char *key_to_path(const uint8_t *key, size_t len)
{
    size_t dir_len = dir_len_of(key, len), name_len;
    const uint8_t *name = key_name(key, len, &name_len);
    char *path = dir_to_path(key, dir_len, dir_len + name_len + 2);

    if (!path)
        return NULL;
    char *end = path + dir_len;
    if (dir_len > 0)
        *end++ = '/';
    if (name_len > 0)
        memcpy(end, name, name_len);
    end[name_len] = '\0';
    return path;
}

char *key_to_dir(const uint8_t *key, size_t len)
{
    size_t dir_len = dir_len_of(key, len);

    return dir_to_path(key, dir_len, dir_len + 1);
}
