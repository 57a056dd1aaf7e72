/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The backend's front: names are checked here, once for all backends, and URLs find theirs. */
#include "repo/backend.h"

#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "repo/backends/backend-private.h"

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '/';
}

/* Also of a prefix, which may end anywhere: the characters, and no part that begins with a dot. */
static bool name_chars_valid(const char *name)
{
    size_t len = strnlen(name, BACKEND_NAME_MAX + 1);
    if (len > BACKEND_NAME_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        bool part_begins = i == 0 || name[i - 1] == '/';
        if (!is_name_char(name[i]) || (part_begins && (name[i] == '/' || name[i] == '.')))
            return false;
    }
    return true;
}

bool backend_name_valid(const char *name)
{
    return name_chars_valid(name) && name[0] != '\0' && name[strlen(name) - 1] != '/';
}

static int check_name(const char *name)
{
    return backend_name_valid(name) ? 0 : error_note(-EINVAL, "bad object name '%s'", name);
}

int backend_put(struct backend *b, const char *name, const struct iovec *iov, size_t iov_count)
{
    int r = check_name(name);
    return r < 0 ? r : b->ops->put(b, name, iov, iov_count);
}

int backend_get(struct backend *b, const char *name, uint64_t offset, void *data, size_t len)
{
    int r = check_name(name);
    return r < 0 ? r : b->ops->get(b, name, offset, data, len);
}

int backend_stat(struct backend *b, const char *name, uint64_t *ret_size_bytes)
{
    int r = check_name(name);
    return r < 0 ? r : b->ops->stat(b, name, ret_size_bytes);
}

int backend_get_all(struct backend *b, const char *name, size_t max_bytes, void **ret_data,
                    size_t *ret_len)
{
    uint64_t size_bytes = 0;
    int r = backend_stat(b, name, &size_bytes);
    if (r < 0)
        return r;
    if (size_bytes > max_bytes)
        return error_note(-UMBRA_E_LIMIT, "'%s' in '%s' has %llu bytes, more than the %zu allowed",
                          name, b->url, (unsigned long long)size_bytes, max_bytes);
    size_t len = (size_t)size_bytes;
    CLEANUP_FREE void *data = malloc(len > 0 ? len : 1);
    if (!data)
        return error_note(-ENOMEM, "no memory for '%s'", name);
    if (len > 0) {
        r = backend_get(b, name, 0, data, len);
        if (r < 0)
            return r;
    }
    *ret_data = TAKE_PTR(data);
    *ret_len = len;
    return 0;
}

int backend_list(struct backend *b, const char *prefix, backend_list_fn fn, void *userdata)
{
    if (!name_chars_valid(prefix))
        return error_note(-EINVAL, "bad prefix of object names '%s'", prefix);
    return b->ops->list(b, prefix, fn, userdata);
}

int backend_remove(struct backend *b, const char *name)
{
    int r = check_name(name);
    return r < 0 ? r : b->ops->remove(b, name);
}

struct backend *backend_free(struct backend *backend)
{
    if (backend)
        backend->ops->free(backend);
    return NULL;
}

/* The path of a file URL, %XX decoded; malloc'ed. */
static int path_from_file_url(const char *url, char **ret_path)
{
    const char *encoded = url + strlen("file://");
    if (encoded[0] != '/')
        return error_note(-EINVAL, "'%s' names a host: expected file:///path", url);
    CLEANUP_FREE char *path = malloc(strlen(encoded) + 1);
    if (!path)
        return error_note(-ENOMEM, "no memory for a path");

    size_t len = 0;
    for (const char *p = encoded; *p != '\0'; p++) {
        char c = *p;
        if (c == '%') {
            char digits[3] = {p[1], p[1] != '\0' ? p[2] : '\0', '\0'};
            if (hex_decode(digits, &c, 1) < 0 || c == '\0')
                return error_note(-EINVAL, "'%s' has a '%%' without two hex digits", url);
            p += 2;
        }
        path[len++] = c;
    }
    path[len] = '\0';
    *ret_path = TAKE_PTR(path);
    return 0;
}

/* "s3://" and the like: letters, then "://". */
static bool has_scheme(const char *url)
{
    size_t len = strspn(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+");
    return len > 0 && strncmp(url + len, "://", 3) == 0;
}

/* What other programs have repositories on, as they name it. */
static bool is_remote(const char *url)
{
    static const char *const kinds[] = {"s3", "sftp", "ssh",   "rest", "rclone",
                                        "b2", "gs",   "azure", "swift"};
    size_t len = strcspn(url, ":/");
    for (size_t i = 0; url[len] == ':' && i < ELEMENTSOF(kinds); i++)
        if (strlen(kinds[i]) == len && strncmp(url, kinds[i], len) == 0)
            return true;
    return has_scheme(url);
}

int backend_open(const char *url, bool create, struct backend **ret_backend)
{
    CLEANUP_FREE char *path = NULL;

    if (url[0] == '\0')
        return error_note(-EINVAL, "the name of the repository is empty");
    if (strncmp(url, "file://", 7) == 0) {
        int r = path_from_file_url(url, &path);
        if (r < 0)
            return r;
    } else if (is_remote(url)) {
        return error_note(
            -EINVAL,
            "'%s': this version has repositories only in directories: give a path, or "
            "file:///path",
            url);
    } else {
        path = strdup(url);
        if (!path)
            return error_note(-ENOMEM, "no memory for a path");
    }
    return backend_local_open(path, url, create, ret_backend);
}
