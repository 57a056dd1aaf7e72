/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/ublk-control.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"

#define CONTROL_PATH "/dev/ublk-control"
#define TIME_LIMIT_S 60

static const struct {
    uint64_t flag;
    const char *what;
} needed[] = {
    {UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE, "recovery"},
    {UBLK_F_CMD_IOCTL_ENCODE, "commands with their sizes"},
    {UBLK_F_USER_COPY, "copying by the server"},
};

struct ublk_control {
    int fd;
    bool is_stuck; /* a command has not come back, and may still use the buffers */
    struct io_uring ring;
    union {
        struct ublksrv_ctrl_dev_info info;
        struct ublk_params params;
        uint64_t features;
    } data;
};

static int wait_for_it(struct ublk_control *control)
{
    struct __kernel_timespec limit = {.tv_sec = TIME_LIMIT_S};
    struct io_uring_cqe *cqe;
    int r = io_uring_submit(&control->ring);
    if (r < 0)
        return r;
    do {
        r = io_uring_wait_cqe_timeout(&control->ring, &cqe, &limit);
    } while (r == -EINTR);
    if (r < 0) {
        control->is_stuck = true;
        return r == -ETIME ? -ETIMEDOUT : r;
    }
    r = cqe->res;
    io_uring_cqe_seen(&control->ring, cqe);
    return r;
}

/* len: of control->data; 0: the command has none. */
static int command(struct ublk_control *control, unsigned op, uint32_t id, uint64_t value,
                   size_t len)
{
    if (control->is_stuck)
        return -ETIMEDOUT;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&control->ring);
    const struct ublksrv_ctrl_cmd cmd = {
        .dev_id = id,
        .queue_id = UINT16_MAX,
        .len = (uint16_t)len,
        .addr = len > 0 ? (uintptr_t)&control->data : 0,
        .data = {value},
    };
    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, control->fd, NULL, 0, 0);
    sqe->cmd_op = op;
    memcpy(sqe->cmd, &cmd, sizeof(cmd));
    return wait_for_it(control);
}

static int said(int r, uint32_t id, const char *what)
{
    return r < 0 ? error_note_describe(r, "cannot %s the ublk device %u", what, id) : 0;
}

static int check_features(struct ublk_control *control)
{
    int r = command(control, UBLK_U_CMD_GET_FEATURES, 0, 0, UBLK_FEATURES_LEN);
    if (r < 0)
        return error_note(-EOPNOTSUPP, "the ublk driver does not say what it can (Linux 6.5): %s",
                          error_describe(r));
    for (size_t i = 0; i < ELEMENTSOF(needed); i++)
        if ((control->data.features & needed[i].flag) != needed[i].flag)
            return error_note(-EOPNOTSUPP, "the ublk driver lacks %s", needed[i].what);
    return 0;
}

int ublk_control_open(struct ublk_control **ret_control)
{
    struct io_uring_params params = {.flags = IORING_SETUP_SQE128};
    struct ublk_control *opened = calloc(1, sizeof(*opened));
    if (!opened)
        return -ENOMEM;
    opened->fd = open(CONTROL_PATH, O_RDWR | O_CLOEXEC);
    if (opened->fd < 0) {
        int r = error_note(-EOPNOTSUPP, "cannot open '" CONTROL_PATH "' (module ublk_drv): %s",
                           error_describe(-errno));
        free(opened);
        return r;
    }
    int r = io_uring_queue_init_params(4, &opened->ring, &params);
    if (r < 0) {
        (void)close(opened->fd);
        free(opened);
        return error_note(-EOPNOTSUPP, "no io_uring here: %s", error_describe(r));
    }
    (void)io_uring_ring_dontfork(&opened->ring);
    CLEANUP(ublk_control_closep) struct ublk_control *control = opened;
    r = check_features(control);
    if (r < 0)
        return r;
    *ret_control = TAKE_PTR(control);
    return 0;
}

void ublk_control_close(struct ublk_control *control)
{
    if (!control || control->is_stuck) /* the kernel may still write to it */
        return;
    io_uring_queue_exit(&control->ring);
    (void)close(control->fd);
    free(control);
}

int ublk_control_add(struct ublk_control *control, struct ublksrv_ctrl_dev_info *info)
{
    control->data.info = *info;
    int r = command(control, UBLK_U_CMD_ADD_DEV, info->dev_id, 0, sizeof(*info));
    if (r < 0)
        return error_note_describe(r, "cannot make a ublk device");
    *info = control->data.info;
    return 0;
}

int ublk_control_get_info(struct ublk_control *control, uint32_t id,
                          struct ublksrv_ctrl_dev_info *ret_info)
{
    int r = command(control, UBLK_U_CMD_GET_DEV_INFO, id, 0, sizeof(*ret_info));
    if (r == 0)
        *ret_info = control->data.info;
    return said(r, id, "ask about");
}

int ublk_control_set_params(struct ublk_control *control, uint32_t id,
                            const struct ublk_params *params)
{
    control->data.params = *params;
    control->data.params.len = sizeof(*params);
    return said(command(control, UBLK_U_CMD_SET_PARAMS, id, 0, sizeof(*params)), id, "describe");
}

int ublk_control_get_params(struct ublk_control *control, uint32_t id,
                            struct ublk_params *ret_params)
{
    control->data.params = (struct ublk_params){.len = sizeof(*ret_params)};
    int r = command(control, UBLK_U_CMD_GET_PARAMS, id, 0, sizeof(*ret_params));
    if (r == 0)
        *ret_params = control->data.params;
    return said(r, id, "ask about");
}

int ublk_control_start(struct ublk_control *control, uint32_t id)
{
    return said(command(control, UBLK_U_CMD_START_DEV, id, (uint64_t)getpid(), 0), id, "start");
}

int ublk_control_stop(struct ublk_control *control, uint32_t id)
{
    return said(command(control, UBLK_U_CMD_STOP_DEV, id, 0, 0), id, "stop");
}

int ublk_control_delete(struct ublk_control *control, uint32_t id)
{
    return said(command(control, UBLK_U_CMD_DEL_DEV_ASYNC, id, 0, 0), id, "remove");
}

int ublk_control_start_recovery(struct ublk_control *control, uint32_t id)
{
    return said(command(control, UBLK_U_CMD_START_USER_RECOVERY, id, 0, 0), id, "take over");
}

int ublk_control_end_recovery(struct ublk_control *control, uint32_t id)
{
    return said(command(control, UBLK_U_CMD_END_USER_RECOVERY, id, (uint64_t)getpid(), 0), id,
                "take over");
}
