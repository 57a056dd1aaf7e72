/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Little-endian fields of formats on disk.  The types have alignment 1, so a struct made of them
 * has no padding. */
#pragma once

#include <endian.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t bytes[2];
} le16_t;
typedef struct {
    uint8_t bytes[4];
} le32_t;
typedef struct {
    uint8_t bytes[8];
} le64_t;

#define LE_DEFINE(bits)                                                    \
    static inline uint##bits##_t le##bits##_get(const le##bits##_t *field) \
    {                                                                      \
        uint##bits##_t value;                                              \
        memcpy(&value, field->bytes, sizeof(value));                       \
        return le##bits##toh(value);                                       \
    }                                                                      \
    static inline le##bits##_t le##bits##_make(uint##bits##_t value)       \
    {                                                                      \
        le##bits##_t field;                                                \
        value = htole##bits(value);                                        \
        memcpy(field.bytes, &value, sizeof(value));                        \
        return field;                                                      \
    }

LE_DEFINE(16)
LE_DEFINE(32)
LE_DEFINE(64)
#undef LE_DEFINE
