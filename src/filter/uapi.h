/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What <linux/fanotify.h> has had since Linux 6.14, for older headers.  Numbers from
 * include/uapi/linux/fanotify.h.
 */
#pragma once

#include <linux/types.h>
#include <sys/fanotify.h>

#ifndef FAN_PRE_ACCESS
#define FAN_PRE_ACCESS 0x00100000
#endif
#ifndef FAN_REPORT_FD_ERROR
#define FAN_REPORT_FD_ERROR 0x00002000
#endif
#ifndef FAN_ERRNO_BITS
#define FAN_ERRNO_BITS      8
#define FAN_ERRNO_SHIFT     (32 - FAN_ERRNO_BITS)
#define FAN_ERRNO_MASK      ((1 << FAN_ERRNO_BITS) - 1)
#define FAN_DENY_ERRNO(err) (FAN_DENY | ((((__u32)(err)) & FAN_ERRNO_MASK) << FAN_ERRNO_SHIFT))
#endif
#ifndef FAN_EVENT_INFO_TYPE_RANGE
#define FAN_EVENT_INFO_TYPE_RANGE 6

struct fanotify_event_info_range {
    struct fanotify_event_info_header hdr;
    __u32 pad;
    __u64 offset;
    __u64 count;
};
#endif

#ifndef FAN_MARK_IGNORE_SURV
#define FAN_MARK_EVICTABLE   0x00000200
#define FAN_MARK_IGNORE      0x00000400
#define FAN_MARK_IGNORE_SURV (FAN_MARK_IGNORE | FAN_MARK_IGNORED_SURV_MODIFY)
#endif

/* The events of the gate. */
#define GATE_EVENTS ((uint64_t)FAN_OPEN_PERM | FAN_OPEN_EXEC_PERM | FAN_PRE_ACCESS)
