/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The input is a key object as a stranger may have left it. */
#include <stdlib.h>
#include <string.h>

#include "repo/key-format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct key_info info;

    if (key_parse(data, len, &info) == 0 &&
        (len != KEY_OBJECT_LEN || strnlen(info.label, sizeof(info.label)) > KEY_LABEL_MAX))
        abort();
    return 0;
}
