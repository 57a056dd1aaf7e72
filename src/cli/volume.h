/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Cow volumes, as the verbs that deal with them see them. */
#pragma once

#include "cli/cli.h"
#include "cow/volume-config.h"

#define VOLUME_SHADOW_NAME_MAX (VOLUME_NAME_MAX + sizeof("@4294967295"))
#define VOLUME_DEVICE_MAX      (sizeof(VOLUME_DEVICE_DIR "/") + VOLUME_SHADOW_NAME_MAX)

struct volume_shadow {
    uint32_t number;
    bool writable;
    uint64_t taken_ns;
    char *label, *node; /* NULL: it has none */
};
DEFINE_VECTOR(volume_shadow_vector, struct volume_shadow);
void volume_shadow_release(struct volume_shadow *shadow);
_must_check_ int volume_shadow_parse(struct json_object *object, struct volume_shadow *ret_shadow);

struct volume_fault {
    uint64_t time_ns;
    uint32_t number; /* the shadow that is gone; 0: none */
    char *reason;
};
DEFINE_VECTOR(volume_fault_vector, struct volume_fault);

/* The response of an attached volume to "status". */
struct volume_status {
    char *origin, *storage, *front;
    char *node; /* the device behind its name in VOLUME_DEVICE_DIR; NULL: there is none */
    uint64_t origin_bytes, block_bytes, max_bytes, used_bytes;
    bool protect_known, protect_shadows;
    uint64_t pid, attached_ns, restarts;
    uint64_t hold_count, hold_p50_us, hold_p99_us, hold_max_us;
    struct volume_shadow_vector shadows;
    struct volume_fault_vector faults;
};
void volume_status_release(struct volume_status *status);
_must_check_ int volume_status_parse(struct json_object *response,
                                     struct volume_status *ret_status);

/* -EPERM with words for those who are not root. */
_must_check_ int volume_need_root(void);
/* -UMBRA_E_USAGE: it cannot be the name of a volume. */
_must_check_ int volume_check_word(const char *name);
/* "NAME@N" taken apart; -UMBRA_E_USAGE. */
_must_check_ int volume_parse_shadow_name(const char *word, char ret_name[VOLUME_NAME_MAX + 1],
                                          uint32_t *ret_number);
char *volume_format_shadow_name(const char *name, uint32_t number,
                                char text[VOLUME_SHADOW_NAME_MAX]);
/* The name that a device has as long as it is there, whatever its node; number 0: of the volume. */
char *volume_format_device(const char *name, uint32_t number, char text[VOLUME_DEVICE_MAX]);
/* In a response, "device" becomes that name, and "node" what it was; so for its shadows. */
void volume_name_devices(struct json_object *response, const char *name);
/* "N" with a suffix, or "N%" of origin_bytes; at least one byte.  -UMBRA_E_USAGE. */
_must_check_ int volume_parse_max_size(const char *text, uint64_t origin_bytes,
                                       uint64_t *ret_bytes);
/* "shadows" or "writes".  -UMBRA_E_USAGE. */
_must_check_ int volume_parse_protect(const char *text, bool *ret_protect_shadows);

/* Makes a request {"request": what}. */
struct json_object *volume_request(const char *what);
/* Asks an attached volume.  -ENOENT: there is no such volume; -ENOTCONN: it is not attached;
 * -EREMOTEIO: what it refused, in its words. */
_must_check_ int volume_send(const char *name, struct json_object *request,
                             struct json_object **ret_response);
/* Both in one, for requests without more. */
_must_check_ int volume_do(const char *name, const char *what, struct json_object **ret_response);

/* Deletes the files of the volume, and the directory if nothing else is in it. */
_must_check_ int volume_remove_files(const char *storage);
