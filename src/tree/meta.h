/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Attributes of files: reading them into an entry and giving them back to a file.
 *
 * What cannot be read or set does not end the work: each such attribute is a problem, told to the
 * callback with words, and the rest is done.  A missing feature of the file system for an attribute
 * that is not there (no xattr support and no xattrs in the entry) is no problem.
 */
#pragma once

#include <linux/fs.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "tree/entry.h"

/*
 * The chattr flags that are recorded and given back: those that chattr(1) shows and can set.
 *
 *     i immutable    a append only  d no dump    A no atime    S sync       D dirsync
 *     j data journal T top dir      t no tail    P projinherit s secure del u undelete
 *     c compress *   m no compress* C no cow *   x dax *       F casefold *
 *
 * Those with a * must be set while the file or directory is empty: see meta_apply_early_fd.  Left
 * out is what says how a file lies on its disk and is made by the file system itself: e (extents),
 * E (encrypted), I (indexed), N (inline data), V (verity), huge file, xattr inode.
 */
#define META_FLAGS_EARLY \
    (FS_COMPR_FL | FS_NOCOMP_FL | FS_NOCOW_FL | FS_DAX_FL | (unsigned)FS_CASEFOLD_FL)
/* Those that keep a file from being changed, renamed and linked to. */
#define META_FLAGS_LOCKS ((unsigned)(FS_IMMUTABLE_FL | FS_APPEND_FL))
#define META_FLAGS_RECORDED                                                                      \
    (META_FLAGS_EARLY | FS_SECRM_FL | FS_UNRM_FL | FS_SYNC_FL | FS_IMMUTABLE_FL | FS_APPEND_FL | \
     FS_NODUMP_FL | FS_NOATIME_FL | FS_JOURNAL_DATA_FL | FS_NOTAIL_FL | FS_DIRSYNC_FL |          \
     FS_TOPDIR_FL | FS_PROJINHERIT_FL)

/* what: "xattr user.foo", "owner", ...; r: negative error. */
typedef void (*meta_problem_fn)(const char *what, int r, void *userdata);

/* Everything that statx gives; fs_index, key and what is not in statx stay untouched. */
void meta_from_statx(const struct statx *stx, struct entry *e);

/* xattrs of all namespaces, chattr flags and project id of an open regular file or directory.  e
 * has been through meta_from_statx.  Fails only without memory. */
_must_check_ int meta_capture_fd(int fd, struct entry *e, meta_problem_fn problem, void *userdata);
/* The same for what is not opened (symlink, fifo, socket, device): xattrs, and the target of a
 * symlink.  Nothing is followed.  -ENOENT when it is gone, -UMBRA_E_CHANGED when it is of another
 * type by now. */
_must_check_ int meta_capture_at(int dir_fd, const char *name, struct entry *e,
                                 meta_problem_fn problem, void *userdata);
/* The same for what path_fd (O_PATH), of any type but these two, leads to. */
_must_check_ int meta_capture_path_fd(int path_fd, struct entry *e, meta_problem_fn problem,
                                      void *userdata);

/* ---- names of owners ---- */

/* The user and group names behind the ids of a backup. */
struct owner {
    uint32_t id;
    bool is_group;
    char *name;
};
DEFINE_VECTOR(owner_vector, struct owner);
void owner_vector_release_all(struct owner_vector *owners);
/* Looks the ids up and adds them unless they are there or have no name.  Sorted by (is_group, id).
 */
_must_check_ int owner_vector_add(struct owner_vector *owners, uint32_t uid, uint32_t gid);

/* The same for all ids in an entry: its owner, its group and those in its ACLs. */
_must_check_ int owner_vector_add_entry(struct owner_vector *owners, const struct entry *e);

/* From recorded ids to those of this system: by name where the name is known here, else the number.
 */
struct owner_map;
_must_check_ int owner_map_new(const struct owner_vector *owners, bool numeric,
                               struct owner_map **ret_map);
void owner_map_free(struct owner_map *map);
DEFINE_CLEANUP_PTR(struct owner_map *, owner_map_free);
uint32_t owner_map_uid(const struct owner_map *map, uint32_t uid);
uint32_t owner_map_gid(const struct owner_map *map, uint32_t gid);
/* Makes the ids in e, those of its ACLs included, those of this system. */
void meta_map_owners(struct entry *e, const struct owner_map *map);

/* ---- giving them back ---- */

/* To be called on a new file or directory before anything is put into it: what could not be set
 * later (META_FLAGS_EARLY, the compression property of btrfs).  inherits: its directory may have
 * handed some of those flags down, which are taken off.  What fails here is told by meta_apply_fd.
 */
void meta_apply_early_fd(int fd, const struct entry *e, bool inherits);
/*
 * Sets owner, mode, xattrs (those that the entry does not have are removed), project id, times and,
 * last, the chattr flags, in the order that keeps all of them (an owner change clears setuid bits
 * and file capabilities).  fd: of a regular file or directory, open for reading at least.  Ids in
 * ACLs are mapped like the owner's; without the right owner no setuid bit is set.  Labels of
 * security modules that the entry does not have are left alone.
 *
 * fresh: the file was made just now, and all that it has and the entry does not have comes from
 * the directory that it was made in: chattr flags and a project id from there stay, an ACL goes.
 *
 * Fails only without memory, and with -UMBRA_E_CHANGED when the file is of another type than the
 * entry.
 */
_must_check_ int meta_apply_fd(int fd, const struct entry *e, const struct owner_map *owners,
                               bool fresh, meta_problem_fn problem, void *userdata);
/* The same for a symlink, fifo, socket or device named name in dir_fd; nothing is followed. */
_must_check_ int meta_apply_at(int dir_fd, const char *name, const struct entry *e,
                               const struct owner_map *owners, bool fresh, meta_problem_fn problem,
                               void *userdata);
/* The same for what path_fd (O_PATH) leads to. */
_must_check_ int meta_apply_path_fd(int path_fd, const struct entry *e,
                                    const struct owner_map *owners, bool fresh,
                                    meta_problem_fn problem, void *userdata);
/* Clears chattr +i and +a where set, so that the file can be changed; its other flags stay. */
_must_check_ int meta_clear_immutable(int fd);
/* What of fd's attributes differs from e, as text for a report ("mode mtime xattr user.a"), "" when
 * nothing. malloc'ed. atime, ctime, btime, inode do not count. owners as in meta_apply_fd. */
_must_check_ int meta_compare_fd(int fd, const struct entry *e, const struct owner_map *owners,
                                 char **ret_differences);
_must_check_ int meta_compare_at(int dir_fd, const char *name, const struct entry *e,
                                 const struct owner_map *owners, char **ret_differences);
_must_check_ int meta_compare_path_fd(int path_fd, const struct entry *e,
                                      const struct owner_map *owners, char **ret_differences);
