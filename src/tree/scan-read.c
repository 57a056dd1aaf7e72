/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading one directory of a walk: open, list, leave out, sort, statx. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/buffer.h"
#include "basic/cleanup.h"
#include "basic/error.h"
#include "tree/key.h"
#include "tree/scan-private.h"

#define LISTING_BYTES (64u << 10) /* of one getdents64 */

/* From so many entries on they are looked at in the order of their inodes, which on a disk that is
 * not cached is the order of its blocks. */
#define INODE_ORDER_MIN 256u

#define CACHE_TAG           "CACHEDIR.TAG"
#define CACHE_TAG_SIGNATURE "Signature: 8a477f597d28d172789f06886806bc55"

/* An entry before its statx. */
struct item {
    uint64_t prefix; /* the first bytes of the name, so that most comparisons need no more */
    uint64_t inode;
    size_t name_offset; /* in the scratch's names */
    const char *name;   /* valid once all names are there */
    uint32_t name_len;
    unsigned char type;           /* DT_* */
    bool is_excluded;             /* explicitly wanted in spite of that */
    const struct scan_root *root; /* a root, or on the way to one */
};
DEFINE_VECTOR(item_vector, struct item);
DEFINE_VECTOR(order_vector, struct item *);

struct scan_scratch {
    struct item_vector items;
    struct order_vector order;
    struct buffer names;
    struct buffer path; /* of the directory with a '/', then the name of one entry */
    size_t path_base;   /* length of the first part */
    alignas(struct dirent64) char listing[LISTING_BYTES];
};

/* One directory while it is read. */
struct reading {
    const struct scan_plan *plan;
    struct scan_scratch *scratch;
    struct scan_node *node;
    struct scan_dir *dir;
};

int scan_scratch_new(struct scan_scratch **ret_scratch)
{
    struct scan_scratch *scratch = calloc(1, sizeof(*scratch));
    if (!scratch)
        return -ENOMEM;
    *ret_scratch = scratch;
    return 0;
}

void scan_scratch_free(struct scan_scratch *scratch)
{
    if (!scratch)
        return;
    item_vector_release(&scratch->items);
    order_vector_release(&scratch->order);
    buffer_release(&scratch->names);
    buffer_release(&scratch->path);
    free(scratch);
}

int scan_node_new(struct dir_handle *parent, const char *name, size_t len,
                  struct scan_node **ret_node)
{
    struct scan_node *node = calloc(1, sizeof(*node) + len + 1);
    if (!node)
        return -ENOMEM;
    memcpy(node->name, name, len);
    node->parent = parent ? dir_handle_ref(parent) : NULL;
    *ret_node = node;
    return 0;
}

void scan_node_free(struct scan_node *node)
{
    if (!node)
        return;
    dir_handle_unref(node->parent);
    scan_dir_unref(node->dir);
    free(node);
}

/* ---- opening ---- */

static char *node_path(const struct scan_node *node)
{
    if (!node->parent)
        return strdup("");
    const char *above = dir_handle_path(node->parent);
    size_t above_len = strlen(above), name_len = strlen(node->name);
    char *path = malloc(above_len + name_len + 2), *p = path;
    if (!path)
        return NULL;
    if (above_len > 0) {
        memcpy(p, above, above_len);
        p += above_len;
        *p++ = '/';
    }
    memcpy(p, node->name, name_len + 1);
    return path;
}

static int open_fd(struct scan_node *node, int *ret_fd)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
    if (!node->parent)
        return scan_open_quietly(AT_FDCWD, "/", flags, ret_fd);
    int parent_fd;
    int r = dir_handle_borrow(node->parent, &parent_fd);
    if (r < 0)
        return r;
    r = scan_open_quietly(parent_fd, node->name, flags, ret_fd);
    if (r == -EACCES && node->partial) /* enough to reach a root below it */
        r = scan_open_quietly(parent_fd, node->name, flags | O_PATH, ret_fd);
    dir_handle_return(node->parent);
    return r;
}

/* Makes node->dir, perhaps one with an error only. */
static int open_node(struct scan_node *node)
{
    CLEANUP_FREE char *path = node_path(node);
    if (!path)
        return -ENOMEM;
    CLEANUP_CLOSE int fd = -EBADF;
    int error = -ENAMETOOLONG;
    if (strlen(path) < KEY_LEN_MAX - KEY_NAME_MAX - 2) /* so that all below has a key */
        error = open_fd(node, &fd);
    dir_handle_unref(TAKE_PTR(node->parent));

    CLEANUP(dir_handle_unrefp) struct dir_handle *handle = NULL;
    if (error >= 0) {
        int r = dir_handle_new(path, fd, &handle);
        if (r < 0)
            return r;
        (void)TAKE_PTR(path);
        (void)TAKE_FD(fd);
    }
    int r = scan_dir_new(handle, path, &node->dir);
    if (r < 0)
        return r;
    (void)TAKE_PTR(path);
    (void)TAKE_PTR(handle);
    node->dir->error = error;
    return 0;
}

/* ---- listing ---- */

/* Whether a rule leaves the entry out. */
static int check_excluded(struct reading *rd, const char *name, size_t len, bool is_directory,
                          bool *ret_excluded)
{
    *ret_excluded = false;
    if (!rd->plan->excludes)
        return 0;
    struct buffer *path = &rd->scratch->path;
    path->len = rd->scratch->path_base;
    buffer_put(path, name, len);
    if (path->failed)
        return -ENOMEM;
    *ret_excluded =
        exclude_set_match(rd->plan->excludes, (const char *)path->data, path->len, is_directory);
    return 0;
}

static int begin_listing(struct reading *rd)
{
    struct scan_scratch *s = rd->scratch;
    item_vector_clear(&s->items);
    buffer_clear(&s->names);
    buffer_clear(&s->path);
    size_t len = strlen(rd->dir->path);
    buffer_put(&s->path, rd->dir->path, len);
    if (len > 0)
        buffer_put_u8(&s->path, '/');
    s->path_base = s->path.len;
    return buffer_finish(&s->path);
}

static uint64_t name_prefix(const char *name, size_t len)
{
    uint64_t prefix = 0;
    for (size_t i = 0; i < sizeof(prefix); i++)
        prefix = prefix << 8 | (i < len ? (unsigned char)name[i] : 0);
    return prefix;
}

static int add_item(struct reading *rd, const char *name, uint64_t inode, unsigned char type,
                    const struct scan_root *root)
{
    struct scan_scratch *s = rd->scratch;
    size_t len = strlen(name);
    struct item item = {
        .prefix = name_prefix(name, len),
        .inode = inode,
        .name_offset = s->names.len,
        .name_len = (uint32_t)len,
        .type = type,
        .root = root,
    };
    if (type != DT_UNKNOWN && !rd->node->partial) {
        int r = check_excluded(rd, name, len, type == DT_DIR, &item.is_excluded);
        if (r < 0 || (item.is_excluded && !root))
            return r;
    }
    buffer_put(&s->names, name, len + 1);
    return s->names.failed ? -ENOMEM : item_vector_push(&s->items, &item);
}

static bool is_dot(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

static bool is_stage(const struct dirent64 *d)
{
    return (d->d_type == DT_DIR || d->d_type == DT_UNKNOWN) &&
           strcmp(d->d_name, TREE_STAGE_NAME) == 0;
}

static int list_all(struct reading *rd)
{
    char *listing = rd->scratch->listing;
    for (;;) {
        ssize_t len = getdents64(rd->dir->fd, listing, LISTING_BYTES);
        if (len < 0)
            rd->dir->error = -errno;
        if (len <= 0)
            return 0;
        for (ssize_t at = 0; at < len;) {
            const struct dirent64 *d = (const struct dirent64 *)(const void *)(listing + at);
            at += d->d_reclen;
            if (is_dot(d->d_name) || is_stage(d))
                continue;
            const struct scan_root *root =
                scan_roots_find(&rd->plan->roots, rd->node->root, d->d_name, strlen(d->d_name));
            int r = add_item(rd, d->d_name, d->d_ino, d->d_type, root);
            if (r < 0)
                return r;
        }
    }
}

/* Only what leads to a root, without a look at the directory. */
static int list_roots(struct reading *rd)
{
    const struct scan_root *root = scan_roots_first(&rd->plan->roots, rd->node->root);
    for (; root; root = scan_roots_next(&rd->plan->roots, root)) {
        char name[KEY_NAME_MAX + 1];
        if (root->name_len > KEY_NAME_MAX)
            continue; /* realpath has found it, so it cannot be */
        memcpy(name, root->name, root->name_len);
        name[root->name_len] = '\0';
        int r = add_item(rd, name, 0, DT_UNKNOWN, root);
        if (r < 0)
            return r;
    }
    return 0;
}

/* https://bford.info/cachedir/ */
static bool cache_tag_is_valid(int dir_fd)
{
    CLEANUP_CLOSE int fd = -EBADF;
    struct stat st;
    char head[sizeof(CACHE_TAG_SIGNATURE) - 1];
    return scan_open_quietly(dir_fd, CACHE_TAG, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, &fd) >= 0 &&
           fstat(fd, &st) >= 0 && S_ISREG(st.st_mode) &&
           pread(fd, head, sizeof(head), 0) == (ssize_t)sizeof(head) &&
           memcmp(head, CACHE_TAG_SIGNATURE, sizeof(head)) == 0;
}

/* Leaves out all but the tag of a cache directory. */
static void drop_cache(struct reading *rd)
{
    struct item_vector *items = &rd->scratch->items;
    const char *names = (const char *)rd->scratch->names.data;
    if (!rd->plan->exclude_caches || !cache_tag_is_valid(rd->dir->fd))
        return;
    size_t kept = 0;
    for (size_t i = 0; i < items->count; i++) {
        struct item *item = &items->items[i];
        bool is_tag = strcmp(names + item->name_offset, CACHE_TAG) == 0;
        if (!is_tag && item->root)
            item->is_excluded = true;
        if (is_tag || item->root)
            items->items[kept++] = *item;
    }
    items->count = kept;
}

static bool holds_cache_tag(const struct reading *rd)
{
    const char *names = (const char *)rd->scratch->names.data;
    const struct item_vector *items = &rd->scratch->items;
    for (size_t i = 0; i < items->count; i++)
        if (items->items[i].name_len == strlen(CACHE_TAG) &&
            strcmp(names + items->items[i].name_offset, CACHE_TAG) == 0)
            return true;
    return false;
}

static int by_name(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->prefix != y->prefix)
        return x->prefix < y->prefix ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int list(struct reading *rd)
{
    int r = begin_listing(rd);
    if (r >= 0)
        r = rd->node->partial ? list_roots(rd) : list_all(rd);
    if (r < 0)
        return r;
    if (!rd->node->partial && rd->plan->exclude_caches && holds_cache_tag(rd))
        drop_cache(rd);
    struct item_vector *items = &rd->scratch->items;
    for (size_t i = 0; i < items->count; i++)
        items->items[i].name = (const char *)rd->scratch->names.data + items->items[i].name_offset;
    if (items->count > 1)
        qsort(items->items, items->count, sizeof(struct item), by_name);
    return 0;
}

/* ---- looking at the entries ---- */

static void look_at(const struct reading *rd, const struct item *item, struct scan_child *child)
{
    child->error = 0;
    if (item->name_len > KEY_NAME_MAX)
        child->error = -ENAMETOOLONG;
    else if (statx(rd->dir->fd, item->name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT,
                   STATX_BASIC_STATS | STATX_BTIME, &child->stx) < 0)
        child->error = -errno;
}

static int by_inode(const void *a, const void *b)
{
    const struct item *x = *(const struct item *const *)a, *y = *(const struct item *const *)b;
    return (x->inode > y->inode) - (x->inode < y->inode);
}

/* Fills children[i] from items[i]. */
static int look_at_all(struct reading *rd, struct scan_child *children)
{
    struct item_vector *items = &rd->scratch->items;
    if (items->count < INODE_ORDER_MIN) {
        for (size_t i = 0; i < items->count; i++)
            look_at(rd, &items->items[i], &children[i]);
        return 0;
    }
    struct order_vector *order = &rd->scratch->order;
    order_vector_clear(order);
    int r = order_vector_reserve(order, items->count);
    if (r < 0)
        return r;
    for (size_t i = 0; i < items->count; i++)
        order->items[order->count++] = &items->items[i];
    qsort(order->items, order->count, sizeof(struct item *), by_inode);
    for (size_t i = 0; i < order->count; i++)
        look_at(rd, order->items[i], &children[order->items[i] - items->items]);
    return 0;
}

/* Whether the entry stays, now that its type is known for sure. */
static int check_kept(struct reading *rd, struct item *item, const struct scan_child *child,
                      bool *ret_kept)
{
    *ret_kept = true;
    if (child->error == -ENOENT && !rd->node->partial)
        *ret_kept = false;
    if (child->error < 0 || item->type != DT_UNKNOWN || rd->node->partial)
        return 0;
    int r = check_excluded(rd, item->name, item->name_len, S_ISDIR(child->stx.stx_mode),
                           &item->is_excluded);
    if (r >= 0 && item->is_excluded && !item->root)
        *ret_kept = false;
    return r;
}

static bool is_mount_point(const struct scan_node *node, const struct statx *stx)
{
    if (stx->stx_attributes_mask & STATX_ATTR_MOUNT_ROOT)
        return stx->stx_attributes & STATX_ATTR_MOUNT_ROOT;
    return stx->stx_dev_major != node->dev_major || stx->stx_dev_minor != node->dev_minor;
}

/* Appends a node for the entry at *link if it is a directory to be entered. */
static int add_subdir(struct reading *rd, const struct item *item, const struct scan_child *child,
                      struct scan_node ***link)
{
    if (child->error < 0 || !S_ISDIR(child->stx.stx_mode))
        return 0;
    const struct scan_node *node = rd->node;
    bool stop = node->partial || item->is_excluded ||
                (rd->plan->one_file_system && is_mount_point(node, &child->stx));
    if (stop && !item->root)
        return 0;
    struct scan_node *sub;
    int r = scan_node_new(scan_dir_handle(rd->dir), item->name, item->name_len, &sub);
    if (r < 0)
        return r;
    sub->root = item->root;
    sub->partial = stop && !item->root->is_root;
    sub->dev_major = child->stx.stx_dev_major;
    sub->dev_minor = child->stx.stx_dev_minor;
    **link = sub;
    *link = &sub->next;
    return 0;
}

/* Keeps what stays of the children, with names of their own, and makes the nodes. */
static int finish_children(struct reading *rd, struct scan_node **subdirs)
{
    struct scan_child_vector *children = &rd->dir->children;
    struct item_vector *items = &rd->scratch->items;
    struct scan_node **link = subdirs;
    char *name;
    int r = scan_dir_alloc_names(rd->dir, rd->scratch->names.len, &name);
    for (size_t i = 0; r >= 0 && i < items->count; i++) {
        struct item *item = &items->items[i];
        bool kept;
        r = check_kept(rd, item, &children->items[i], &kept);
        if (r < 0 || !kept)
            continue;
        struct scan_child *child = &children->items[children->count];
        if (children->count != i)
            *child = children->items[i];
        children->count++;
        memcpy(name, item->name, item->name_len + 1);
        child->name = name;
        name += item->name_len + 1;
        r = add_subdir(rd, item, child, &link);
    }
    return r;
}

static void free_nodes(struct scan_node *node)
{
    while (node) {
        struct scan_node *next = node->next;
        scan_node_free(node);
        node = next;
    }
}

int scan_read_node(const struct scan_plan *plan, struct scan_scratch *scratch,
                   struct scan_node *node, struct scan_node **ret_subdirs)
{
    struct scan_node *subdirs = NULL;
    int r = open_node(node);
    if (r < 0)
        return r;
    if (node->dir->error < 0) {
        *ret_subdirs = NULL;
        return 0;
    }
    struct reading rd = {.plan = plan, .scratch = scratch, .node = node, .dir = node->dir};
    r = list(&rd);
    if (r >= 0)
        r = scan_child_vector_reserve(&node->dir->children, scratch->items.count);
    if (r >= 0)
        r = look_at_all(&rd, node->dir->children.items);
    if (r >= 0)
        r = finish_children(&rd, &subdirs);
    if (r < 0) {
        free_nodes(subdirs);
        return r;
    }
    *ret_subdirs = subdirs;
    return 0;
}
