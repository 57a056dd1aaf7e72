/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who carries instructions out.
 *
 * Each can be done again, and finds out by itself how far it was done before: objects are known by
 * their identity, not by name.  A rename whose object is at its new place was done; one whose
 * object is at the old place is to be done; if it is at neither, somebody else was here.  What a
 * plan must keep to, so that this works in any order of crashes, is said in treetx.c.
 */
#pragma once

#include "basic/error.h"
#include "tree/beneath.h"
#include "treetx/instruction.h"
#include "treetx/stage.h"
#include "treetx/treetx.h"

struct actor {
    int root_fd, stage_fd, new_fd, old_fd; /* the caller's */
    struct dir_cache *dirs;
    const struct treetx_options *options; /* NULL: warnings */
    bool strict;                          /* an attribute that cannot be set is a failure */
    bool force; /* what somebody else has changed is left alone, and STAGE_LEFT says so */
};

_must_check_ int actor_init(struct actor *actor, const struct stage *stage);
void actor_release(struct actor *actor);
/* -UMBRA_E_TREE_CHANGED: an object is not where it should be; nothing was done then. */
_must_check_ int actor_do(struct actor *actor, const void *data, size_t len);

enum look {
    LOOK_ABSENT,  /* nothing has the name */
    LOOK_SAME,    /* the object is there */
    LOOK_FOREIGN, /* something else is */
};
/* What is at the place. */
_must_check_ int actor_look(struct actor *actor, const struct locator *where,
                            const struct ident *want, enum look *ret_look);
