/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/text.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "basic/buffer.h"
#include "basic/checked.h"
#include "basic/cleanup.h"

void hex_encode(const void *data, size_t len, char *text)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * len] = 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int hex_decode(const char *text, void *data, size_t len)
{
    uint8_t *bytes = data;
    if (strlen(text) != 2 * len)
        return -EINVAL;
    for (size_t i = 0; i < 2 * len; i++)
        if (hex_digit(text[i]) < 0)
            return -EINVAL;
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)(hex_digit(text[2 * i]) << 4 | hex_digit(text[2 * i + 1]));
    return 0;
}

/* Length of the UTF-8 sequence (RFC 3629) at data of a printable character; 0 when there is none.
 */
static size_t utf8_len(const uint8_t *data, size_t len)
{
    uint8_t first = data[0];
    if (first < 0x80)
        return first >= 0x20 && first != 0x7f && first != '\\';
    size_t n = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((data[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (first == 0xe0 && data[1] < 0xa0) || (first == 0xf0 && data[1] < 0x90);
    bool surrogate = first == 0xed && data[1] >= 0xa0;
    bool beyond = first == 0xf4 && data[1] >= 0x90;
    bool control = first == 0xc2 && data[1] < 0xa0; /* C1 */
    return overlong || surrogate || beyond || control ? 0 : n;
}

char *text_escape(const void *data, size_t len)
{
    const uint8_t *bytes = data;
    CLEANUP(buffer_release) struct buffer b = {0};
    for (size_t i = 0; i < len;) {
        size_t n = utf8_len(bytes + i, len - i);
        if (n > 0) {
            buffer_put(&b, bytes + i, n);
            i += n;
            continue;
        }
        char escaped[5] = "\\x";
        hex_encode(bytes + i, 1, escaped + 2);
        buffer_put(&b, escaped, 4);
        i++;
    }
    buffer_put_u8(&b, 0);
    return buffer_finish(&b) < 0 ? NULL : (char *)TAKE_PTR(b.data);
}

int text_unescape(const char *text, size_t len, char **ret_data, size_t *ret_len)
{
    CLEANUP_FREE char *data = malloc(len + 1);
    size_t out = 0;
    if (!data)
        return -ENOMEM;
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\\') {
            data[out++] = text[i];
            continue;
        }
        char digits[3] = "";
        if (len - i < 4 || text[i + 1] != 'x')
            return -EINVAL;
        memcpy(digits, text + i + 2, 2);
        if (hex_decode(digits, data + out, 1) < 0)
            return -EINVAL;
        out++;
        i += 3;
    }
    data[out] = '\0';
    *ret_data = TAKE_PTR(data);
    *ret_len = out;
    return 0;
}

char *text_format_bytes(uint64_t bytes, char text[16])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    double value = (double)bytes;
    while (value >= 999.5 && unit + 1 < ELEMENTSOF(units)) {
        value /= 1024;
        unit++;
    }
    int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    (void)snprintf(text, 16, "%.*f %s", decimals, value, units[unit]);
    return text;
}

char *text_format_time(int64_t ns_since_epoch, char text[40])
{
    int64_t sec = ns_since_epoch / (int64_t)NSEC_PER_SEC;
    int64_t nsec = ns_since_epoch % (int64_t)NSEC_PER_SEC;
    if (nsec < 0) {
        nsec += (int64_t)NSEC_PER_SEC;
        sec--;
    }
    struct tm tm;
    time_t t = (time_t)sec;
    char date[28] = "?";
    if (gmtime_r(&t, &tm))
        (void)strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
    if (nsec == 0)
        (void)snprintf(text, 40, "%sZ", date);
    else
        (void)snprintf(text, 40, "%s.%09uZ", date, (unsigned)nsec);
    return text;
}

int text_parse_bytes(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0)
        return -EINVAL;
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (*end && (!unit || end[1]))
        return -EINVAL;
    uint64_t factor = unit ? UINT64_C(1) << (10 * (unit - units + 1)) : 1;
    return checked_mul_u64(number, factor, ret_bytes) ? 0 : -EINVAL;
}
