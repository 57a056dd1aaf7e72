/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "treetx/plan-private.h"

#define BUCKETS_FIRST 1024u /* a power of two */

static size_t bucket_of(const char *path, size_t bucket_count)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (; *path; path++)
        hash = (hash ^ (uint8_t)*path) * UINT64_C(0x100000001b3);
    return (hash >> 7) & (bucket_count - 1);
}

static void node_free(struct node *node)
{
    free(node->path);
    free(node->stage_name);
    free(node);
}

void nodes_release(struct plan *plan)
{
    for (size_t i = 0; i < plan->bucket_count; i++) {
        while (plan->buckets[i]) {
            struct node *node = plan->buckets[i];
            plan->buckets[i] = node->next;
            node_free(node);
        }
    }
    free(plan->buckets);
    plan->buckets = NULL;
    plan->bucket_count = plan->node_count = 0;
}

static int grow(struct plan *plan)
{
    size_t count = plan->bucket_count > 0 ? 2 * plan->bucket_count : BUCKETS_FIRST;
    struct node **buckets = calloc(count, sizeof(struct node *));

    if (!buckets)
        return -ENOMEM;
    for (size_t i = 0; i < plan->bucket_count; i++) {
        while (plan->buckets[i]) {
            struct node *node = plan->buckets[i];
            plan->buckets[i] = node->next;
            size_t at = bucket_of(node->path, count);
            node->next = buckets[at];
            buckets[at] = node;
        }
    }
    free(plan->buckets);
    plan->buckets = buckets;
    plan->bucket_count = count;
    return 0;
}

struct node *node_find(const struct plan *plan, const char *path)
{
    if (plan->bucket_count == 0)
        return NULL;
    struct node *node = plan->buckets[bucket_of(path, plan->bucket_count)];
    while (node && strcmp(node->path, path) != 0)
        node = node->next;
    return node;
}

static int node_make(struct plan *plan, const char *path, struct node **ret_node)
{
    int r = plan->node_count < plan->bucket_count ? 0 : grow(plan);
    if (r < 0)
        return r;
    struct node *node = calloc(1, sizeof(*node));
    if (!node)
        return -ENOMEM;
    node->path = strdup(path);
    if (!node->path) {
        node_free(node);
        return -ENOMEM;
    }
    struct node **bucket = &plan->buckets[bucket_of(path, plan->bucket_count)];
    node->next = *bucket;
    *bucket = node;
    plan->node_count++;
    *ret_node = node;
    return 0;
}

/* Cuts the last component off; false: there is none. */
static bool cut_last(char *path)
{
    char *slash = strrchr(path, '/');

    if (*path == '\0')
        return false;
    *(slash ? slash : path) = '\0';
    return true;
}

int node_get(struct plan *plan, const char *path, struct node **ret_node)
{
    CLEANUP_FREE char *way = strdup(path);
    struct node *node, *above;

    if (!way)
        return -ENOMEM;
    node = node_find(plan, way);
    int r = node ? 0 : node_make(plan, path, &node);
    /* Where a node is, those above it are. */
    while (r >= 0 && cut_last(way) && !node_find(plan, way))
        r = node_make(plan, way, &above);
    if (r >= 0)
        *ret_node = node;
    return r;
}

struct node *node_cover(const struct plan *plan, const char *path, bool itself)
{
    CLEANUP_FREE char *way = strdup(path);

    for (bool on = way != NULL; on; on = cut_last(way)) {
        struct node *node = itself ? node_find(plan, way) : NULL;
        if (node && node->state != NODE_WAY)
            return node;
        itself = true;
    }
    return NULL;
}
